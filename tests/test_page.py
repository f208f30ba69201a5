"""The page of an evaluation, for every kind of question, from a folder of made-up answers."""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from oct_judge.findings.cases import is_denied, log_odds
from oct_judge.findings.likelihood import reliability_of
from oct_judge.findings.origin import command_of
from oct_judge.page import write_page
from oct_judge.page.quantities import once_each
from oct_judge.page.reading import Results, text
from oct_judge.page.rivals import majority_sentence
from oct_report import Axis, Cloud, Line, chart, matrix, scatter, strip
from oct_report.page import Drawing
from oct_vjepa.measures.target import Target
from oct_vjepa.measures.units import Units
from oct_vjepa.trials.cases import Case

sys.path.insert(0, str(Path(__file__).parent))

from made_up_results import HASHES, NAMES, write_made_up

VOID = ("meta", "img", "br", "hr", "link", "input")


class Wellformed(HTMLParser):
    """Refuses a tag that is not closed, or closed where another is open; collects ids and texts."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.used, self.texts = [], [], [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.used += re.findall(r"(?:url\(#|^#)([^)\s]+)", " ".join(str(v) for v in found.values()))
        self.used += [found["href"][1:]] if found.get("href", "").startswith("#") else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module", params=sorted(NAMES))
def built(request, tmp_path_factory):
    """Kind, results.json, the page, and the page as it was read."""
    folder = tmp_path_factory.mktemp("runs") / "made-up"
    document = write_made_up(folder, request.param, seeds=2, rounds=2)
    assert write_page(folder) == folder / "report.html"
    page = (folder / "report.html").read_text()
    reader = Wellformed()
    reader.feed(page)
    return request.param, document, page, reader


def test_a_page_is_well_formed_and_each_id_is_there_once(built):
    reader = built[3]
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    assert set(reader.used) <= set(reader.ids)


def test_a_page_asks_for_nothing_from_outside_runs_nothing_and_names_nobody(built):
    page = built[2]
    assert not re.search(r"https?:|<script|<link|@import|javascript:| on\w+=", page)
    assert not re.search(r'(?:href|src)="(?!#|data:image/png)', page)
    assert not re.search(r"url\((?!#)", page)
    assert not any(one in page for one in HASHES)


def test_made_up_data_a_used_test_and_a_shortcut_are_told_before_any_number(built):
    page = built[2]
    tiles = page.index('class="tiles"')
    assert page.index("Phantom: every scan") < page.index('class="headline"') < tiles
    assert page.index("scored with 3 different settings") < tiles
    assert page.index("Shortcut: @device alone") < tiles
    assert page.index("allow_seen=true") < tiles


def test_every_number_of_the_results_stands_on_the_page(built):
    _, document, _, reader = built
    told = " ".join(reader.texts)
    for one in document["candidates"]:
        assert one["name"] in told
        for value in one["card"]["metrics"].values():
            assert text(value) in told
        for found in one["card"]["by_class"].values() if one["name"] == "pretrained" else ():
            assert all(text(value) in told for value in found.values())
        if one["gain"]:
            assert text(one["gain"]["difference"], "+") in told
            assert f"{one['gain']['p_holm']:.3f}" in told
        assert all(f"{value:.4g}" in told for value in one["card"]["by_seed"])
    for table in document["subgroups"]:
        for row in table["rows"]:
            assert all(text(value) in told for value in row["metrics"].values())
        assert all(text(value) in told for value in table["gaps"].values())
    for line in document["efficiency"]:
        assert text(line["headline"]) in told
        assert "{fit} + {validation}".format(**line["participants"]) in told
    for value in document["elsewhere"]["metrics"].values() if document["elsewhere"] else ():
        assert text(value) in told
    for found in document["reliability"].values():
        assert all(f"{one['came_true']:.3f}" in told for one in found)
    flow = document["flow"]
    for key in ("scans_found", "scans_usable", "scans_with_answer", "scans_without_answer"):
        assert str(flow[key]) in told
    for words in (
        *("4 at decode", "6 clipped", "too few of x", "0.913 (0.812 to 0.988)", "8.8%", "0.6125"),
        *("0.438", "1.125", "abad1dea", "0ddba11", "feedc0de", "seed: 7", document["sentence"]),
        document["command"],
    ):
        assert words in told, words
    if promise := document["promise"]:
        assert f"{promise['covered']:.4g}" in told
        for name, covered in (promise["by_label"] or {}).items():
            assert f"kept of {name}" in told
            assert f"{covered:.4g}" in told
    assert bool(promise) == (document["question"]["kind"] != "survival")


def test_participants_are_counted_once_however_often_they_were_asked():
    target = Target(kind="nominal", values=np.arange(10) % 2, names=("no", "yes"))
    chance = np.linspace(0.02, 0.98, 10)
    units = Units(np.stack([1 - chance, chance], axis=1), target.values, np.arange(10))
    counts = [one["participants"] for one in reliability_of([[units]] * 3, target)["yes"]]
    assert counts == [1] * 10
    # Two rounds, whose risks have no common scale; b is asked in both.
    answers, risk = once_each({
        "participant": np.array(["c", "a", "b", "b", "d"]),
        "round": np.array(["one", "one", "one", "two", "two"]),
        "seed": np.zeros(5, int),
        "answer": np.array([[3.0, 1], [1.0, 0], [2.0, 1], [2.0, 1], [4.0, 0]]),
        "risk": np.array([0.3, 0.1, 0.2, 80.0, 90.0]),
    })  # fmt: skip
    assert answers.tolist() == [[1, 0], [2, 1], [3, 1], [4, 0]]
    assert risk == pytest.approx([0, (1 / 3 + 0) / 2, 2 / 3, 1 / 2])


@pytest.mark.parametrize(
    ("seeds", "rounds", "kind", "words"),
    [
        (
            1,
            1,
            "nominal",
            "DeLong’s p of each stands in the full table below, as it is and corrected",
        ),
        (2, 1, "nominal", "It is of the mean scores of 2 seeds, an ensemble each."),
        (
            1,
            2,
            "nominal",
            "DeLong’s p of each stands in the full table below, as it is and corrected",
        ),
        (1, 1, "ordinal", "DeLong’s test is left out: it compares the AUROCs of two classes"),
        (2, 1, "regression", ""),
    ],
)
def test_a_page_has_delong_or_says_why_it_has_none(tmp_path, seeds, rounds, kind, words):
    write_made_up(tmp_path, kind, seeds=seeds, rounds=rounds)
    page = write_page(tmp_path).read_text()
    assert words in page
    assert ("is left out" in page) == ("left out" in words)


@pytest.mark.parametrize(
    ("luck", "words"),
    [
        (0.4, ""),
        (None, ""),
        (0.012, "by luck in 12 of 1,000 draws"),
        (1e-9, "less than one of 1,000"),
    ],
)
def test_a_promise_that_luck_does_not_break_is_said_to_be_broken(luck, words, tmp_path):
    document = write_made_up(tmp_path, "nominal")
    assert document["promise"]["luck"] is not None
    document["promise"]["luck"] = luck
    (tmp_path / "results.json").write_text(json.dumps(document))
    write_page(tmp_path)
    told = (tmp_path / "report.html").read_text()
    assert ("do not rely on this promise" in told) == bool(words)
    assert words in told


def test_each_kind_has_the_figures_that_suit_it(built):
    kind, _, page, _ = built
    wanted = {
        "nominal": ["ROC, trial", "Precision and recall, trial", "Decision curve, trial"],
        "ordinal": ["ROC, none", "ROC, $much$"],
        "multilabel": ["ROC, thin", "Calibration, fluid"],
        "regression": ["Predicted against true", "Bland-Altman"],
        "survival": ["Without an event", "highest third of the risk"],
    }
    for other, words in wanted.items():
        assert all((one in page) == (other == kind) for one in words), (other, words)
    assert page.count("data:image/png") == 3, "two cases, one of which has a localizer"
    assert "answer: trial" in page
    assert "Label efficiency" in page
    assert (">called<" in page) == (kind in ("nominal", "ordinal")), "the confusion matrix"


def test_configuration_is_folded_away_at_the_end_and_opens_on_paper(built):
    page = built[2]
    assert page.index("<summary>Configuration") > page.index("Where the scans went")
    assert "<details open" not in page
    assert "details::details-content { content-visibility: visible" in page


def test_a_page_of_an_older_folder_says_less_and_a_foreign_one_is_refused(tmp_path):
    document = write_made_up(tmp_path, "nominal")
    for name in ("embedding.npz", "cases.npz"):
        (tmp_path / name).unlink()
    kept = {
        key: value
        for key, value in document.items()
        if key not in ("flow", "embedding", "maps", "shortcuts", "reliability", "command")
    }
    (tmp_path / "results.json").write_text(json.dumps(kept))
    page = write_page(tmp_path).read_text()
    assert "Where answers come from" not in page
    assert "The encoder beside its rivals" in page
    (tmp_path / "results.json").write_text(json.dumps(kept | {"format": 99}))
    with pytest.raises(ValueError, match="format 99, this page reads 2"):
        write_page(tmp_path)


def test_what_cannot_be_measured_is_a_dash_and_no_page_fails_for_it(tmp_path):
    document = write_made_up(tmp_path, "nominal")
    own = document["candidates"][0]["card"]
    own["metrics"] = {name: [None, None, None] for name in own["metrics"]}
    document["subgroups"][0]["rows"][0]["metrics"]["auroc"] = [None, None, None]
    (tmp_path / "results.json").write_text(json.dumps(document))
    page = write_page(tmp_path).read_text()
    assert "could not be measured" in page
    assert not re.search(r"\bnan\b", re.sub(r"<style.*?</style>|data:image[^\"]*", "", page))


def test_drawings_take_the_colours_of_the_page_and_equal_ones_are_equal():
    made = chart("A $ title", [Line("_one", [0, 1], [0, 1])], Axis("x"), Axis("y"))
    assert made == chart("A $ title", [Line("_one", [0, 1], [0, 1])], Axis("x"), Axis("y"))
    assert "var(--accent)" in made
    assert "A $ title" in made
    assert ">one<" in made
    cloud = scatter("c", [Cloud("a", [1.0], [2.0])], Axis("x"), Axis("y"), diagonal=True)
    counts = matrix(np.array([[3.0, 1.0], [0.0, 4.0]]), ["a", "b"], down="true", along="called")
    for one in (made, cloud, counts):
        assert not re.search(r"#[0-9a-f]{6}\b", one), "a colour that dark pages cannot change"
        assert one.startswith("<svg viewBox=")


def test_a_strip_says_its_interval_and_is_cut_at_the_ends_of_its_scale():
    drawn = strip([0.7, 0.2, 0.9], low=0.5, high=1.0, mark=0.5)
    assert isinstance(drawn, Drawing)
    assert drawn.words == "0.700 (0.200 to 0.900)"
    assert all(0 <= float(x) <= 220 for x in re.findall(r'(?:x1|x2|cx)="([0-9.-]+)"', drawn.svg))
    assert strip([None, None, None], low=0, high=1, mark=0.5) == ""


def test_a_command_repeats_a_run_without_saying_where_data_lie():
    given = [
        *("task=thin", "data.root=/data/of/somebody", "data.labels=s3://bucket/key"),
        *("weights=/place/somebody/runs/a/encoder", "seeds=3", "+data.storage.token=abc"),
        'compare.encoders=["a=/place/somebody/encoder","b=vit@/of/somebody/w.pth","c=runs/c"]',
        "data.bscans.pattern=(?P<participant>[^/]+)/[^/]+",
    ]
    told = command_of("finetune", given)
    assert told.startswith("uv run apps/finetune task=thin ")
    assert "seeds=3" in told
    assert "encoder" in told
    assert '["a=.../encoder","b=vit@.../w.pth","c=runs/c"]' in told
    assert "(?P<participant>[^/]+)/[^/]+" in told
    assert not re.search("somebody|bucket|abc|s3:", told)


def test_log_odds_of_what_is_certain_still_tell_one_certainty_from_another():
    target = Target(kind="nominal", values=np.array([0, 1]), names=("no", "yes"))
    scores = np.array([[1e-20, 1.0], [1e-40, 1.0], [0.5, 0.5]])
    found = log_odds(scores, 1, target)
    assert found == pytest.approx([np.log(1e20), np.log(1e40), 0.0])


def test_a_label_that_was_denied_is_a_case_of_its_absence():
    values = np.array([[0, 1], [1, 0]])
    target = Target(kind="multilabel", values=values, names=("a", "b"))
    assert is_denied(target, np.array([0.2, 0.9]), Case(0, 0, right=True))
    assert not is_denied(target, np.array([0.2, 0.9]), Case(0, 1, right=True))


def test_the_majority_class_is_counted_over_rounds():
    counts = {"fit": (6, 9), "test": (3, 2)}
    parts = [
        {"round": name, "part": part, "by_class": dict(zip(names, own, strict=True))}
        for name, names in (("first", ("ill", "well")), ("second", ("well", "ill")))
        for part, own in counts.items()
    ]

    def said(kind, parts):
        question = {"kind": kind, "names": ["ill", "well"]}
        document = {"flow": {"parts": parts}, "question": question}
        return majority_sentence(
            Results(
                folder="run", document=document, predictions={}, embedding={}, cases={},
                provenance={},
            )
        )  # fmt: skip

    told = said("nominal", parts)
    assert "“ill or well” of everyone" in told
    assert "right about 4 of 10 participants (40.0%); balanced accuracy 0.500" in told
    assert said("regression", parts) == said("nominal", parts[1:]) == ""
