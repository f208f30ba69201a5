"""One answer from the volumes of a participant: masks, order, sides, and views left out."""

import pytest
import torch
from oct_vjepa.heads.answer import Answer
from oct_vjepa.heads.build import load_head
from oct_vjepa.heads.configuration import LossConfig
from oct_vjepa.heads.multivolume import MultiVolumeHead, ParticipantBatch, ParticipantModel, fill_up

CLASSES = ["no", "yes"]


@pytest.fixture
def head():
    torch.manual_seed(0)
    return MultiVolumeHead(width=12, classes=CLASSES, inner=8, heads=2).eval()


@pytest.fixture
def views():
    """Three participants with 4, 2 and 1 volumes, filled up to 5."""
    generator = torch.Generator().manual_seed(1)
    features = [torch.randn(count, 12, generator=generator) for count in (4, 2, 1)]
    return fill_up(features, [[0, 0, 1, 2], [1, 0], [1]], 5)


def test_volumes_are_filled_up_to_one_shape_and_the_mask_says_which_are_real(views):
    x, there, side = views
    assert x.shape == (3, 5, 12)
    assert there.sum(dim=1).tolist() == [4, 2, 1]
    assert side[0].tolist() == [0, 0, 1, 2, 2]
    assert (x[~there] == 0).all()
    few = fill_up([torch.ones(4, 12)], [[0, 0, 1, 1]], 2)
    assert few[0].shape == (1, 2, 12)


def test_what_stands_where_no_volume_is_does_not_matter(head, views):
    x, there, side = views
    other = torch.where(there.unsqueeze(-1), x, torch.full_like(x, torch.nan))
    other_side = torch.where(there, side, torch.zeros_like(side))
    with torch.no_grad():
        assert torch.equal(head(x, there, side), head(other, there, other_side))
        longer = [torch.nn.functional.pad(part, pad) for part, pad in (
            (x, (0, 0, 0, 3)), (there, (0, 3)), (side, (0, 3)))]  # fmt: skip
        assert torch.allclose(head(x, there, side), head(*longer), atol=1e-6)


def test_the_order_of_the_volumes_does_not_matter_but_their_eye_does(head, views):
    x, there, side = views
    order = torch.tensor([3, 1, 0, 4, 2])
    with torch.no_grad():
        one = head(x, there, side)
        assert torch.allclose(one, head(x[:, order], there[:, order], side[:, order]), atol=1e-6)
        moved = side.clone()
        moved[0, 0] = 1
        assert not torch.allclose(one[0], head(x, there, moved)[0], atol=1e-6)


def test_an_eye_with_many_volumes_weighs_no_more_than_the_other(head):
    generator = torch.Generator().manual_seed(2)
    right, left = torch.randn(1, 12, generator=generator), torch.randn(1, 12, generator=generator)
    few = fill_up([torch.cat([right, left])], [[0, 1]], 5)
    many = fill_up([torch.cat([right, left, left, left, left])], [[0, 1, 1, 1, 1]], 5)
    with torch.no_grad():
        assert torch.allclose(head(*few), head(*many), atol=1e-6)


def test_gradients_are_finite_also_for_eyes_without_volumes(head, views):
    x, there, side = views
    head.train()
    head(x, there, side).sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in head.parameters())


def test_view_dropout_leaves_one_volume_at_least_and_nothing_out_in_evaluation(views):
    x, there, side = views
    torch.manual_seed(0)
    head = MultiVolumeHead(width=12, classes=CLASSES, inner=8, heads=2, view_dropout=0.9)
    left = torch.stack([head._left(there) for _ in range(400)])
    assert (left & ~there).sum() == 0
    assert left.any(dim=2).all()
    share = left[:, 0, :4].float().mean()
    assert 0.25 < share < 0.4  # one of four always, the other three at 0.1
    head.eval()
    with torch.no_grad():
        assert torch.equal(head(x, there, side), head(x, there, side))


def test_participants_are_learnt_and_answered_in_the_unit_of_the_question():
    generator = torch.Generator().manual_seed(3)
    features = [torch.randn(1 + i % 4, 12, generator=generator) for i in range(32)]
    label = 250.0 + 40.0 * (torch.arange(32) % 2)
    for one, value in zip(features, label, strict=True):
        one[0, 3] += 6.0 * float(value > 260)  # one of the volumes shows it
    x, there, side = fill_up(features, [[0, 1, 1, 0][: len(one)] for one in features], 4)
    torch.manual_seed(0)
    head = MultiVolumeHead(width=12, classes=["thickness"], inner=8, heads=2, view_dropout=0.1)
    head.answer = Answer(kind="regression", unit="um", mean=270.0, scale=20.0)
    model = ParticipantModel(head, LossConfig(kind="regression"))
    groups = model.parameter_groups(0.01)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    for _ in range(60):
        model.loss(ParticipantBatch(x, there, side, label))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    said = model.eval().predict(x, there, side)[:, 0]
    assert ((said > 270) == (label > 270)).float().mean() > 0.9
    assert 200 < said.min() < said.max() < 340
    label[:2] = torch.nan
    with pytest.raises(ValueError, match="2 of 32 volumes have none"):
        model.loss(ParticipantBatch(x, there, side, label))


def test_the_head_comes_back_from_disk_and_refuses_what_it_cannot_read(head, views, tmp_path):
    head.save_pretrained(tmp_path / "head")
    with torch.no_grad():
        assert torch.equal(load_head(tmp_path / "head")(*views), head(*views))
    x, there, side = views
    with pytest.raises(ValueError, match="has no volume"):
        head(x, there & False, side)
    with pytest.raises(ValueError, match="must be bool"):
        head(x, there.float(), side)
    with pytest.raises(ValueError, match="features of volumes"):
        head.from_tokens(x)
    with pytest.raises(ValueError, match="multiple of heads"):
        MultiVolumeHead(width=12, classes=CLASSES, inner=9, heads=2)
