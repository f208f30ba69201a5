"""Segmentation by the same loop: masks are learnt, scored by class, kept, and taken up again."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from oct_vjepa import Encoder
from oct_vjepa.heads.configuration import AugmentationConfig, HeadConfig, LoraConfig
from oct_vjepa.heads.segmentation import SegmentationHead
from oct_vjepa.measures.segmentation import count_overlap, dice_of
from oct_xla import CheckpointError, pick_runtime, read_rows

FOLDER = Path(__file__).parent
MODULES = ("small_training", "recipe", "examples", "learning", "training", "segmenting")
NAMES = ["background", "cube"]


@pytest.fixture(scope="module")
def small():
    """The module small_training, and those of the app that it imports."""
    path = list(sys.path)
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.path.insert(0, str(FOLDER))
    import small_training

    yield small_training
    sys.path[:] = path
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def segment(small):
    from oct_judge.learning import Place
    from oct_judge.recipe import DecoderConfig
    from oct_judge.segmenting import segment

    def run(run_dir, decoder=None, masks=None, rows=None, **settings):
        volumes = small.Volumes()
        return segment(
            small.recipe(**settings, decoder=DecoderConfig(**(decoder or {}))), small.encoder(),
            volumes, volumes.masks if masks is None else masks, NAMES, rows or small.parts(),
            Place(pick_runtime("cpu"), run_dir, seed=0, data="small"),
        )  # fmt: skip

    return run


def test_masks_are_learnt_and_their_files_are_what_was_scored(small, segment, tmp_path):
    found = segment(tmp_path, mode="full", epochs=15, lr_head=1e-2)
    assert found.ending.reason in ("done", "early")
    assert found.test["dice_cube"] > 0.9, found.test
    assert found.ending.best == pytest.approx(found.validation["dice"])
    parts, truth = small.parts(), small.Volumes().masks
    for part, told in ((parts.validation, found.validation), (parts.test, found.test)):
        rows = np.flatnonzero(part)
        kept = np.stack([np.load(tmp_path / "masks" / f"{row:06d}.npy") for row in rows])
        dice = dice_of(count_overlap(kept, truth[rows], 2))
        assert [told["dice_background"], told["dice_cube"]] == pytest.approx(dice)
    assert len(list((tmp_path / "masks").iterdir())) == (parts.validation | parts.test).sum()
    sick = [row for row in found.table if row["class"] == "cube" and row["row"] % 2]
    assert {row["part"] for row in found.table} == {"validation", "test"}
    assert len(found.table) == 2 * 40
    assert np.nanmedian([row["surface_mean_um"] for row in sick]) < 12


def test_saved_encoder_and_head_give_the_masks_again(small, segment, tmp_path):
    segment(tmp_path, mode="partial", blocks=1, epochs=2)
    encoder = Encoder.from_pretrained(tmp_path / "encoder")
    head = SegmentationHead.from_pretrained(tmp_path / "head")
    row = int(np.flatnonzero(small.parts().test)[0])
    volume = torch.from_numpy(small.Volumes()[row])[None, None]
    with torch.no_grad():
        mask = head(encoder(volume), small.SHAPE).argmax(dim=1)[0]
    assert np.array_equal(mask.numpy(), np.load(tmp_path / "masks" / f"{row:06d}.npy"))


def test_the_decoder_reads_the_levels_it_is_told(segment, tmp_path):
    one = segment(tmp_path / "one", mode="frozen", epochs=1)
    two = segment(tmp_path / "two", mode="frozen", epochs=1, decoder={"levels": [0, 1]})
    deep = segment(tmp_path / "deep", mode="frozen", epochs=1, decoder={"hidden": 16})
    widths = [SegmentationHead.from_pretrained(f.folder / "head").width for f in (one, two, deep)]
    assert widths == [32, 64, 32]
    assert len({found.validation["dice"] for found in (one, two, deep)}) == 3


def test_a_run_ends_early_by_dice_and_repeats_its_result(segment, tmp_path):
    still = {"mode": "frozen", "lr_head": 1e-12, "lr_encoder": 1e-12, "epochs": 9, "patience": 1}
    found = segment(tmp_path, **still)
    assert (found.ending.reason, found.ending.step) == ("early", 4)
    assert str(segment(tmp_path, **still)) == str(found)  # NaN is not equal to itself


def test_the_folder_of_other_masks_is_refused(small, segment, tmp_path):
    segment(tmp_path, mode="frozen", epochs=1)
    other = small.Volumes().masks[:, :, ::-1].copy()
    with pytest.raises(CheckpointError, match=r"masks = \w+, now it is \w+"):
        segment(tmp_path, masks=other, mode="frozen", epochs=1)


def test_unlabelled_voxels_are_neither_learnt_nor_scored(small, segment, tmp_path):
    masks = small.Volumes().masks.copy()
    masks[:, :, :, 8:] = -1
    found = segment(tmp_path, masks=masks, mode="full", epochs=2)
    assert np.isfinite(found.validation["dice"])
    assert all(np.isfinite(row["loss"]) for row in read_rows(tmp_path / "metrics.jsonl"))


def test_masks_move_with_the_volume_when_it_is_augmented(small):
    from oct_judge.examples import MaskedSamples

    config = small.recipe(augmentation=AugmentationConfig(flip=0.5, shift=(0, 5, 5)))
    volumes = small.Volumes()
    samples = MaskedSamples(
        volumes, np.arange(60), config, encoder=small.encoder().config, seed=0, masks=volumes.masks
    )
    moved = 0
    for index in range(1, 21, 2):
        batch = samples(index, 0)
        again = samples(index, 0)
        assert all(torch.equal(a, b) for a, b in zip(batch[:2], again[:2], strict=True))
        bright = batch.volume_BCZYX[0] >= 150
        assert torch.equal(bright, batch.label_BZYX == 1)
        moved += not np.array_equal(batch.label_BZYX.numpy(), volumes.masks[index])
    assert moved > 5


def test_settings_that_do_nothing_for_masks_are_refused(segment, tmp_path):
    for setting, words in (
        ({"class_weights": [1.0, 2.0]}, "class_weights"),
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"mode": "attentive", "head": HeadConfig(heads=2)}, "mode"),
    ):
        with pytest.raises(ValueError, match=rf"training\.{words}"):
            segment(tmp_path, **setting)


def test_adapters_learn_masks_too(segment, tmp_path):
    found = segment(tmp_path, mode="lora", lora=LoraConfig(rank=2), epochs=1)
    assert "lora" not in "".join(Encoder.from_pretrained(found.folder / "encoder").state_dict())
