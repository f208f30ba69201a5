"""Volumes that are no OCT, from a folder of NIfTI files to a report and to predictions."""

import csv
import json

import nibabel
import numpy as np
import pytest

FEW = (
    *("loop.steps=4", "loop.evaluate_every=0", "loop.log_every=2", "feed.batch_size=8"),
    *("watched_volumes=8", "probed_volumes=0", "probe.columns=[]"),
)
SMALL = (
    "encoder.width=48",
    "encoder.depth=2",
    "objective.levels=2",
    "encoder.input_shape=[16,16,16]",
)
PATCHES = "encoder.patch_size=[4,8,8]"


@pytest.fixture(scope="session")
def crops(place):
    """24 made-up crops in voxels of 1 mm, each on a scale of its own; every second has a lump."""
    root, draw = place / "crops", np.random.default_rng(0)
    root.mkdir()
    for number in range(24):
        level = draw.uniform(0, 1, (18, 20, 15))
        if number % 2:
            level[6:10, 8:12, 5:9] += 2
        image = nibabel.Nifti1Image((level * 10.0 ** (number % 4)).astype(np.float32), np.eye(4))
        nibabel.save(image, root / f"crop{number:02d}.nii.gz")
    rows = [f"crop{number:02d},{'yes' if number % 2 else 'no'}" for number in range(24)]
    table = place / "lumps.csv"
    table.write_text("\n".join(["participant_id,lump", *rows]) + "\n")
    return root, table


@pytest.mark.slow
def test_crops_of_mr_images_are_pretrained_on_asked_and_predicted(place, crops, call_app):
    root, table = crops
    fit = (
        *("data=folder", f"data.root={root}", "data.kind=volume", "data.window=16x16x16"),
        f"data.cache={place / 'crops-cache'}",
    )
    run_dir, asked = place / "crops-run", place / "crops-asked"
    made = call_app("pretrain", *fit, "data.jobs=1", *FEW, *SMALL, PATCHES, f"run_dir={run_dir}")
    assert made.code == 0, made.errors
    facts = json.loads((run_dir / "provenance.json").read_text())
    assert facts["scans_refused"] == 0
    assert len(facts["participants_in_training"]) == 24
    found = call_app(
        "finetune", *fit, "data.jobs=1", f"data.labels={table}", "task.column=lump",
        f"encoder={run_dir / 'encoder'}", f"run_dir={asked}", "allow_seen=true",
        f"features={place / 'crops-features'}", "bootstrap=100",
        "compare.baselines=[]", "compare.ranked=false", "compare.maps=0",
    )  # fmt: skip
    assert found.code == 0, found.errors
    scored = call_app("finetune", f"predict={root}", f"model={asked / 'model'}", "data.jobs=1")
    assert scored.code == 0, scored.errors
    with (asked / "predictions-crops" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert all(row["p_true"] for row in rows), "the model remembers that its volumes are no OCT"
    refused = call_app(
        "finetune", f"predict={root}", f"model={asked / 'model'}", "data.kind=oct",
        f"out={place / 'crops-out'}",
    )  # fmt: skip
    assert refused.code == 2
    assert "data.kind (oct) is not the model's (volume)" in refused.errors


def test_a_folder_of_crops_is_told_what_to_say(place, crops, call_app):
    root, _ = crops
    fit = (
        *("data=folder", f"data.root={root}", f"data.cache={place / 'crops-none'}", *FEW),
        f"run_dir={place / 'crops-refused'}",
    )
    found = call_app("pretrain", *fit)
    assert found.code == 2
    (line,) = [one for one in found.errors.splitlines() if one.startswith("error")]
    assert "data.kind=volume" in line
    found = call_app("pretrain", *fit, "data.kind=volume")
    assert found.code == 2
    assert "data.window=tiny is a box about a retina" in found.errors
