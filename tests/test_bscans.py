"""Single B-scans from a folder of images to a report and an evaluation, as programs."""

import json

import numpy as np
import pytest
from PIL import Image

PATTERN = "'(?P<participant>[0-9]+)_(?P<eye>O[DS])'"
FEW = (
    *("loop.steps=4", "loop.evaluate_every=4", "loop.log_every=2", "feed.batch_size=8"),
    *("watched_volumes=8", "probed_volumes=0", "probe.bootstrap=100"),
)
SMALL = (
    "encoder.width=48",
    "encoder.depth=2",
    "objective.levels=2",
    "encoder.input_shape=[1,32,64]",
)


@pytest.fixture(scope="session")
def images(place):
    """40 made-up images of 20 participants, every second of whom has a bright spot."""
    root, draw = place / "images", np.random.default_rng(0)
    root.mkdir()
    for person in range(20):
        for eye in ("OD", "OS"):
            level = draw.integers(0, 30, (48, 120))
            level[20 + person % 5 :][:8] += 120
            if person % 2:
                level[24:34, 50:70] += 90
            Image.fromarray(level.astype(np.uint8)).save(root / f"{person}_{eye}.png")
    rows = [f"{person},{'yes' if person % 2 else 'no'}" for person in range(20)]
    table = place / "labels.csv"
    table.write_text("\n".join(["participant_id,ill", *rows]) + "\n")
    window = "data.window=32x64", "data.jobs=1"
    return "data=bscans", f"data.root={root}", f"data.labels={table}", *window


@pytest.mark.slow
def test_images_are_pretrained_on_and_asked(place, images, call_app):
    run_dir, named = place / "bscans", f"data.bscans.pattern={PATTERN}"
    made = call_app(
        "pretrain", *images, named, *FEW, *SMALL, "probe.columns=[ill]", f"run_dir={run_dir}"
    )
    assert made.code == 0, made.errors
    assert "positions count patches: of 40 of 40 scans" in made.errors
    facts = json.loads((run_dir / "provenance.json").read_text())
    assert facts["remarks"] == [
        "positions count patches: of 40 of 40 scans nobody knows how far apart their voxels are"
    ]
    assert len(facts["participants_in_training"]) == 20
    page = (run_dir / "report.html").read_text()
    assert "Positions count patches" in page
    asked = call_app(
        "finetune", *images, named, f"encoder={run_dir / 'encoder'}", "task.column=ill",
        f"run_dir={place / 'bscans-asked'}", "allow_seen=true", "bootstrap=100",
    )  # fmt: skip
    assert asked.code == 0, asked.errors
    results = json.loads((place / "bscans-asked" / "results.json").read_text())
    assert results["question"]["name"] == "ill"


def test_positions_in_millimetres_need_them(images, call_app):
    found = call_app("pretrain", *images, *SMALL, "encoder.position_unit=length")
    assert found.code == 2
    (line,) = [one for one in found.errors.splitlines() if "position_unit" in one]
    assert "position_unit=length needs the spacing of every scan" in line
    assert "40 of 40" in line


def test_a_volume_window_is_refused_for_images(images, call_app):
    found = call_app("pretrain", *images, "data.window=tiny")
    assert found.code == 2
    assert "data.window=tiny takes 8 B-scans" in found.errors


def test_an_encoder_of_the_command_line_stands_above_the_one_that_fits(images, call_app):
    found = call_app("pretrain", *images, "encoder=cpu_smoke")
    assert found.code == 2
    assert "data.window=32x64 gives volumes of (1, 32, 64)" in found.errors
