"""Single B-scans from a folder of images to a report and an evaluation, as programs."""

import csv
import json

import numpy as np
import pytest
import torch
from oct_io import open_cache
from oct_vjepa import Encoder, EncoderConfig, load_model
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

    new, out = place / "new-images", place / "predicted"
    new.mkdir()
    root = place / "images"
    for name, original in {"90_OD": "1_OD", "90_OS": "1_OS", "91_OD": "2_OD"}.items():
        (new / f"{name}.png").write_bytes((root / f"{original}.png").read_bytes())
    whole = (root / "3_OD.png").read_bytes()
    (new / "92_OD.png").write_bytes(whole[: len(whole) // 2])
    scored = call_app(
        "finetune", f"predict={new}", f"model={place / 'bscans-asked' / 'model'}", f"out={out}",
        "data=bscans", named, "data.jobs=1", "predict_paths=true",
    )  # fmt: skip
    assert scored.code == 0, scored.errors
    with (out / "predictions.csv").open() as file:
        rows = {one["path"]: one for one in csv.DictReader(file)}
    assert rows.keys() == {"90_OD.png", "90_OS.png", "91_OD.png", "92_OD.png"}
    assert "not_scored" in rows["92_OD.png"]["flags"]
    assert [rows[f"90_{eye}.png"]["eye"] for eye in ("OD", "OS")] == ["R", "L"]
    assert rows["90_OD.png"]["participant"] == rows["90_OS.png"]["participant"]
    model = load_model(place / "bscans-asked" / "model")
    volumes = open_cache(out / "cache")
    said = model.predict(volumes, volumes.spacings).scores[:, 1].tolist()
    wanted = [one["p_true"] for one in rows.values() if one["p_true"]]
    assert sorted(map(float, wanted)) == sorted(said)
    with (out / "participants.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2


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


@pytest.fixture(scope="session")
def masked(place, images):
    """Words for masks of the bright spots of all but two of the images, and a small encoder."""
    folder = place / "drawn"
    folder.mkdir()
    for path in sorted((place / "images").glob("*.png"))[2:]:
        spot = np.zeros((48, 120), np.uint8)
        if int(path.name.split("_")[0]) % 2:
            spot[24:34, 50:70] = 255
        Image.fromarray(spot).save(folder / path.name)
    torch.manual_seed(0)
    network = {"input_shape": (1, 32, 64), "patch_size": (1, 8, 16), "width": 24, "depth": 2}
    Encoder(EncoderConfig(**network, heads=2)).save_pretrained(place / "bscans-encoder")
    return (
        *(*images, f"data.bscans.pattern={PATTERN}", f"encoder={place / 'bscans-encoder'}"),
        *(f"data.bscans.masks={folder}", "data.bscans.mask_classes={spot: 255}"),
        *("data.annotations=[mask]", f"data.cache={place / 'drawn-cache'}", "bootstrap=100"),
        *("protocol.name=kfold", "protocol.folds=2"),
    )


@pytest.mark.slow
def test_masks_of_images_are_drawn(place, masked, call_app):
    run_dir = place / "bscans-segment"
    short = "training.epochs=1", "training.mode=full", "segment.unet=false", "protocol.name=given"
    found = call_app(
        "finetune", *masked, *short, "mode=segment", "compare.random_init=false",
        f"run_dir={run_dir}",
    )  # fmt: skip
    assert found.code == 0, found.errors
    results = json.loads((run_dir / "results.json").read_text())
    assert results["question"]["names"] == ["background", "spot"]
    assert results["split"].startswith("38 scans of 19 participants have masks")
    assert list((run_dir / "masks").glob("*.npz"))
    rule = next(one for one in results["candidates"] if one["name"] == "mean mask")
    dice = rule["card"]["metrics"]["dice_spot"][0]
    ill = 2 / 5 <= dice <= 3 / 5  # two or three of five tested have the spot, where all have it
    assert ill, "perfect on those who have the spot, 0 on those who have none"


@pytest.mark.slow
def test_masks_of_images_are_looked_for_in_every_fold(place, masked, call_app):
    run_dir = place / "bscans-patches"
    found = call_app("finetune", *masked, "mode=patches", f"run_dir={run_dir}")
    assert found.code == 0, found.errors
    results = json.loads((run_dir / "results.json").read_text())
    assert len(results["protocol"]["rounds"]) == 2
    kept = list((run_dir / "patches").glob("*.npz"))
    assert len(kept) == 38, "each image with a mask is tested once, and no other"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("data.bscans.mask_classes={spot: 254}",), "it has grey level 255, for which no class is"),
        (("data.bscans.masks=nowhere",), "nowhere (data.bscans.masks): no such folder"),
        (("data.bscans.mask_classes={spot: white}",), "(spot: white) must be a grey level"),
        (("data.annotations=[]",), "data.bscans.masks is read with data.annotations=[mask] alone"),
        (("data.bscans.eye_words={izq: left}",), "eye_words (izq: left) must be R or L"),
    ],
)
def test_masks_that_cannot_be_used_are_one_line(place, masked, call_app, words, complaint):
    out = f"run_dir={place / 'bscans-wrong'}"
    found = call_app("finetune", *masked, "mode=patches", out, *words)
    assert found.code == 2
    (line,) = [one for one in found.errors.splitlines() if one.startswith("error")]
    assert complaint in line
