"""A public data set as it is published, from its folder to a run, as a program."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FEW = (
    *("loop.steps=2", "loop.evaluate_every=0", "loop.log_every=1", "feed.batch_size=4"),
    *("watched_volumes=8", "probe.bootstrap=100", "data.jobs=1"),
    *(
        "encoder.width=48",
        "encoder.depth=2",
        "objective.levels=2",
        "encoder.input_shape=[1,32,64]",
        "data.window=32x64",
    ),
)


@pytest.fixture(scope="module")
def kermany(place):
    """A made-up copy of Kermany's OCT2017: 20 images for training, 8 for testing."""
    where = ROOT / "packages" / "oct-io" / "tests" / "datasets" / "layouts.py"
    runpy.run_path(str(where))["LAYOUTS"]["kermany"](place / "kermany")
    return place / "kermany"


@pytest.mark.slow
def test_a_public_set_is_pretrained_on_without_its_test_participants(place, kermany, call_app):
    run_dir = place / "kermany-run"
    made = call_app(
        "pretrain", "data=kermany", f"data.root={kermany}", f"run_dir={run_dir}", *FEW,
        f"data.cache={place / 'kermany-cache'}",
    )  # fmt: skip
    assert made.code == 0, made.errors
    facts = json.loads((run_dir / "provenance.json").read_text())
    assert len(facts["participants_in_training"]) == 7
    assert len(facts["excluded_participants"]) == 4
    said = "\n".join(facts["remarks"])
    assert "2 scans are left out" in said
    assert "positions count patches" in said
    assert "ill" in made.out, "the label of the set is probed with its own split"


def test_what_is_no_copy_of_a_set_is_one_line(place, call_app):
    (place / "empty-set").mkdir(exist_ok=True)
    found = call_app("pretrain", "data=kermany", f"data.root={place / 'empty-set'}", *FEW)
    assert found.code == 2
    (line,) = [one for one in found.errors.splitlines() if one.startswith("error")]
    assert "no scan of Kermany OCT2017; expected OCT2017/train/CNV" in line
