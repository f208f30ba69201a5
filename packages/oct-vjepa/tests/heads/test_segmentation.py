"""Voxels from tokens: each patch in its place, scores checked by hand, a volume learned."""

import pytest
import torch
from oct_vjepa import Encoder
from oct_vjepa.heads.configuration import FinetuningConfig
from oct_vjepa.heads.segmentation import (
    SegmentationBatch,
    SegmentationHead,
    Segmenter,
    dice_scores,
    hard_labels,
    join_patches,
)
from oct_vjepa.model.patches import split_patches

SHAPE, PATCH = (4, 16, 24), (2, 4, 8)


def test_joining_patches_undoes_splitting_them(generator):
    volume = torch.randn(2, 3, *SHAPE, generator=generator)
    assert torch.equal(join_patches(split_patches(volume, PATCH), SHAPE, PATCH), volume)
    with pytest.raises(ValueError, match="do not fill"):
        join_patches(torch.zeros(1, 23, 64), SHAPE, PATCH)


def test_a_token_moves_the_voxels_of_its_patch_and_no_others(generator):
    head = SegmentationHead(width=6, classes=["a", "b", "c"], patch_size=PATCH, hidden=4)
    tokens = torch.randn(1, 24, 6, generator=generator)
    changed = tokens.clone()
    changed[0, 14] = -changed[0, 14]  # patch (1, 0, 2)
    with torch.no_grad():
        moved = (head(changed, SHAPE) - head(tokens, SHAPE)).abs().amax(dim=1)[0] > 0
    wanted = torch.zeros(SHAPE, dtype=torch.bool)
    wanted[2:4, 0:4, 16:24] = True
    assert torch.equal(moved, wanted)


def test_dice_is_what_it_is_by_hand_and_leaves_out_what_is_not_there():
    label = torch.zeros(1, 1, 2, 4, dtype=torch.long)
    label[0, 0, 0] = 1
    label[0, 0, 1, 3] = -1  # not known: counts for nothing
    logits = torch.zeros(1, 3, 1, 2, 4)
    logits[0, 1, 0, 0, :2] = 1.0  # two of four voxels of class 1 are found, one in 0 is wrong
    logits[0, 1, 0, 1, 0] = 1.0
    score = dice_scores(hard_labels(logits), label)
    assert score[1] == pytest.approx(2 * 2 / (3 + 4))
    assert score[0] == pytest.approx(2 * 2 / (4 + 3))
    assert score[2].isnan()


@pytest.mark.parametrize("levels", [(), (0, 1)])
def test_a_segmenter_learns_one_volume_with_borders_inside_patches(small_config, levels):
    torch.manual_seed(0)
    z, y, x = torch.meshgrid(*(torch.arange(size) for size in SHAPE), indexing="ij")
    label = ((y > 5 + z) & (x < 13)).long() + ((y > 9) & (x > 16)).long() * 2
    volume = (40 + 80 * label + torch.randint(0, 20, SHAPE)).to(torch.uint8)
    head = SegmentationHead(
        width=48 * max(1, len(levels)), classes=["none", "left", "right"], patch_size=PATCH
    )
    finetuning = FinetuningConfig(mode="full", layer_decay=1.0)
    objective = Segmenter(Encoder(small_config), head, finetuning, levels=levels)
    batch = SegmentationBatch(volume[None, None], label[None])
    groups = [{"params": g["params"], "weight_decay": 0.0} for g in objective.parameter_groups(0.0)]
    optimizer = torch.optim.AdamW(groups, lr=5e-3)
    first = float(objective.loss(batch)["loss"].detach())
    for _ in range(40):
        parts = objective.loss(batch)
        parts["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(parts["loss"].detach()) < 0.2 * first
    assert parts["dice"] > 0.95


def test_voxels_without_a_label_take_no_part(small_config, volume, generator):
    head = SegmentationHead(width=48, classes=["a", "b"], patch_size=PATCH)
    objective = Segmenter(Encoder(small_config), head)
    label = torch.randint(0, 2, (4, *SHAPE), generator=generator)
    label[:, :, :8] = -1
    loss = objective.loss(SegmentationBatch(volume, label))["loss"]
    nothing = objective.loss(SegmentationBatch(volume, torch.full_like(label, -1)))["loss"]
    assert torch.isfinite(loss)
    logits = objective(volume)
    logits.retain_grad()
    dice_scores(logits.softmax(dim=1), label).nansum().backward()
    assert logits.grad[:, :, :, :8].abs().max() == 0
    assert not nothing.isinf()


def test_a_head_that_does_not_fit_the_encoder_is_refused(small_config, volume):
    head = SegmentationHead(width=48, classes=["a", "b"], patch_size=(2, 4, 4))
    with pytest.raises(ValueError, match="must be the encoder's"):
        Segmenter(Encoder(small_config), head)
    fitting = SegmentationHead(width=48, classes=["a", "b"], patch_size=PATCH)
    with pytest.raises(ValueError, match="in the shape of the volumes"):
        Segmenter(Encoder(small_config), fitting).loss(
            SegmentationBatch(volume, torch.zeros(4, 2, 2, 2, dtype=torch.long))
        )
    with pytest.raises(ValueError, match="two or more"):
        SegmentationHead(width=48, classes=["a"], patch_size=PATCH)
