"""What a pretraining run says of its own worth, in words."""

import pytest
from oct_judge.closing import remarks_of_all, rows_of_all, sentence_of_all


def document(name, *gains):
    """What would be said of a label whose encoder has these gains over each rival."""
    card = {"metrics": {"auroc": [0.9, 0.8, 0.95], "balanced_accuracy": [0.8, 0.7, 0.9]}}
    rivals = [
        {"name": who, "card": card, "gain": {"difference": list(gain)}}
        for who, gain in zip(("random init", "grey histogram"), gains, strict=True)
    ]
    own = {"name": "pretrained", "card": card, "gain": None}
    return {"question": {"name": name}, "candidates": [own, *rivals]}


ABOVE, OPEN, BELOW = (0.1, 0.05, 0.2), (0.1, -0.05, 0.2), (-0.1, -0.2, -0.05)


@pytest.mark.parametrize(
    ("documents", "said", "remarks", "unsaid"),
    [
        (
            [document("thin", ABOVE, ABOVE), document("fluid", ABOVE, OPEN)],
            ["learned to tell thin and fluid better", "and thin better than any simple measure"],
            [],
            ["cannot be said", "worse", "For no label", "better than it"],
        ),
        (
            [document("thin", ABOVE, OPEN), document("fluid", OPEN, ABOVE)],
            ["learned to tell thin better than before it was trained."],
            ["Of fluid it cannot be said", "For no label"],
            ["simple measurement of the scan", "worse"],
        ),
        (
            [document("thin", OPEN, ABOVE), document("drusen", BELOW, BELOW)],
            ["has not been shown to tell thin or drusen better"],
            ["tells drusen worse", "scan tells drusen better than it", "For no label"],
            ["learned"],
        ),
    ],
)
def test_only_what_lies_above_chance_is_claimed(documents, said, remarks, unsaid):
    sentence, more = sentence_of_all(documents), " ".join(remarks_of_all(documents))
    assert sentence.count(".") == 1, "one sentence"
    assert all(one in sentence for one in said), sentence
    assert all(one in more for one in remarks), more
    assert not any(one in f"{sentence} {more}" for one in unsaid), (sentence, more)


def test_participants_who_are_tested_and_were_learned_from_are_told():
    documents = [document("thin", ABOVE, ABOVE), document("fluid", ABOVE, ABOVE)]
    assert not any("who are tested" in one for one in remarks_of_all(documents))
    documents[1]["tested_seen"] = 12
    (said,) = (one for one in remarks_of_all(documents) if "who are tested" in one)
    assert "(12 of fluid), without their labels" in said


def test_rows_say_who_was_asked_for_what_and_what_pretraining_has_over_it():
    headings, rows = rows_of_all([document("thin", ABOVE, OPEN), document("fluid", OPEN, BELOW)])
    assert headings == ["label", "features", "AUROC", "balanced accuracy", "pretrained over it"]
    assert [row[:2] for row in rows[:4]] == [
        ["thin", "pretrained"],
        ["thin", "random init"],
        ["thin", "grey histogram"],
        ["fluid", "pretrained"],
    ]
    assert rows[0][2:] == ["0.900 (0.800 to 0.950)", "0.800 (0.700 to 0.900)", ""]
    assert rows[2][4] == "+0.100 (-0.050 to +0.200)"
