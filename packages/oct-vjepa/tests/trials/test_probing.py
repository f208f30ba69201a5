"""A probe finds what is there, calls chance chance, and counts participants rather than volumes."""

import numpy as np
import pytest
from oct_vjepa import paired_difference, probe
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.configuration import GridConfig
from oct_vjepa.probes.protocol import make_rounds
from oct_vjepa.trials.judging import Candidate, answer_frozen
from oct_vjepa.trials.verdict import Panel, card_of


def draw(rng, rows, *, signal, classes=2, width=8):
    """Normal features whose first `classes` columns rise by `signal` in their class."""
    y = np.arange(rows) % classes
    features = rng.normal(size=(rows, width))
    features[np.arange(rows), y] += signal
    return features, y


def sides(*, signal, seed=0, classes=2, rows=300):
    rng = np.random.default_rng(seed)
    train, test = (draw(rng, rows, signal=signal, classes=classes) for _ in range(2))
    return (*train, *test)


def run(**how):
    return probe(*sides(**how), seed=how.get("seed", 0), bootstrap=200)


def test_a_probe_on_noise_has_chance_within_its_interval():
    result = run(signal=0.0, classes=4)
    assert result.auroc.low < 0.5 < result.auroc.high
    assert result.balanced_accuracy.low < 0.25 < result.balanced_accuracy.high


def test_a_probe_reaches_the_auroc_that_theory_gives():
    result = run(signal=1.0, rows=2000)
    assert result.auroc.low < 0.8413 < result.auroc.high  # Phi(signal), two columns sqrt(2) apart
    assert result.auroc.high - result.auroc.low < 0.05
    assert run(signal=3.0, classes=4).auroc.value > 0.95


def test_it_says_what_an_evaluation_says_of_the_same_rows():
    x, y, other, labels = sides(signal=0.5, rows=120)
    found = probe(x, y, other, labels, seed=3, bootstrap=100)
    target = Target(kind="nominal", values=np.r_[y, labels], names=("0", "1"))
    people = np.r_[np.arange(120, 240), np.arange(120)]
    parts = np.repeat(["train", "test"], 120)
    rounds = make_rounds("given", target, people, parts=parts, seed=3)
    rows = {"features": np.r_[x, other]}
    candidate = Candidate(name="", readouts=lambda one, seed: rows)
    answers = list(answer_frozen(candidate, "linear", target, people, rounds, GridConfig(), seed=3))
    card = card_of(
        [answers], Panel(target=target, people=people, eyes=people), seed=3, bootstrap=100
    )
    assert found.card == card
    assert np.array_equal(found.fitted.predict(rows), answers[0].probe.predict(rows))


def test_string_labels_name_the_classes_and_equal_seeds_give_equal_results():
    x, y, other, labels = sides(signal=2.0, rows=60)
    names = np.array(["healthy", "sick"])
    one, two = (probe(x, names[y], other, names[labels], seed=0, bootstrap=50) for _ in range(2))
    assert one.card.names == ("healthy", "sick")
    assert one.card == two.card


def test_ten_copies_of_every_volume_do_not_narrow_the_interval():
    x, y, other, labels = sides(signal=0.5, rows=100)
    alone = probe(x, y, other, labels, groups_test=np.arange(100), seed=0)
    copies = np.repeat(np.arange(100), 10)
    many = probe(x, y, other[copies], labels[copies], groups_test=copies, seed=0)
    assert many.card.participants == 100
    assert many.auroc == pytest.approx(alone.auroc)


def test_a_real_difference_is_found_and_none_is_not_made_up():
    strong, weak = run(signal=2.0), run(signal=0.2)
    gain = paired_difference(strong, weak, seed=0)
    assert gain.low > 0
    assert gain.value == pytest.approx(strong.auroc.value - weak.auroc.value)
    assert paired_difference(weak, weak, seed=0) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="different participants or answers"):
        paired_difference(strong, run(signal=2.0, rows=200), seed=0)


def test_probes_that_learned_from_fewer_are_compared_on_the_same_participants():
    x, y, other, labels = sides(signal=0.8, rows=200)
    many, few = (probe(x[:n], y[:n], other, labels, seed=0, bootstrap=50) for n in (200, 20))
    assert paired_difference(many, few, seed=0).value == many.auroc.value - few.auroc.value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda x, y: {"groups_train": np.arange(20), "groups_test": np.arange(20)},
            "20 .* in both",
        ),
        (lambda x, y: {"groups_train": y}, "fit and validation has 2 participants; it needs 4"),
        (lambda x, y: {"y_test": np.zeros(20)}, "test has participants"),
        (lambda x, y: {"y_test": np.full(20, 7)}, "participants"),
        (lambda x, y: {"features_test": x[:9]}, "test: rows, labels and groups differ in number"),
    ],
)
def test_sides_that_cannot_be_asked_are_one_line(change, said):
    x, y, other, labels = sides(signal=1.0, rows=20)
    asked = {"features_train": x, "y_train": y, "features_test": other, "y_test": labels}
    with pytest.raises(ValueError, match=said) as error:
        probe(**(asked | change(x, y)), seed=0)
    assert "\n" not in str(error.value)
