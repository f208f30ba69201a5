"""`mode=attentive` with `training.grid`: pools on kept tokens, fitted together and chosen."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from oct_judge.learning import Place
from oct_judge.pools import candidates_of, check_room, fit_pools, size_of, tell_kept
from oct_judge.question import FinetuneConfig
from oct_judge.recipe import PoolGridConfig, TrainingConfig
from oct_vjepa import Encoder
from oct_vjepa.finished.about import MemberAbout
from oct_vjepa.finished.member import Member, score_batch
from oct_vjepa.heads.attentive import AttentiveHead
from oct_vjepa.heads.build import load_head
from oct_vjepa.heads.configuration import AugmentationConfig, HeadConfig
from oct_vjepa.measures.progress import watch_scores
from oct_xla import pick_runtime

sys.path.insert(0, str(Path(__file__).parent))
from small_training import ROWS, Volumes, encoder, parts, target

GRID = PoolGridConfig(kinds=["cross_attention", "attentive"], learning_rates=[1e-7, 1e-2])
PEOPLE = np.arange(ROWS)


def recipe(**settings):
    given = {"mode": "attentive", "grid": GRID, "epochs": 15, "head": HeadConfig(heads=2)}
    return TrainingConfig(**(given | settings))


def fitted(folder, kind="nominal", round=None, **settings):
    place = Place(pick_runtime("cpu"), folder / "run", 0, data="small")
    return fit_pools(
        recipe(**settings), encoder(), Volumes(), target(kind), PEOPLE, round or parts(), place,
        folder / "features",
    )  # fmt: skip


def test_validation_chooses_among_pools_and_what_is_left_behind_answers_alike(tmp_path):
    found = fitted(tmp_path)
    assert len(found.candidates) == 4
    assert found.chosen["learning_rate"] == 1e-2, "the other one learns nothing"
    best = max(one["validation"] for one in found.candidates)
    assert found.chosen["validation"] == best
    test = parts().test & target().known
    assert watch_scores(found.scores_NK[test], target().take(test))["auroc"] > 0.95
    assert np.isnan(found.scores_NK[parts().fit]).all()
    head, rows = load_head(tmp_path / "run" / "head"), np.flatnonzero(parts().test)
    assert head.kind in ("attentive_head", "cross_attention_head")
    own = Encoder.from_pretrained(tmp_path / "run" / "encoder")
    before = encoder().state_dict()
    assert all(torch.equal(one, before[name]) for name, one in own.state_dict().items())
    with torch.no_grad():
        tokens = own(torch.from_numpy(Volumes().voxels[rows]).unsqueeze(1))
        again = head.answer.scores(head.from_tokens(tokens))
    assert np.allclose(again.numpy(), found.scores_NK[rows], atol=1e-5)


def test_a_quantity_is_answered_in_its_unit(tmp_path):
    found = fitted(tmp_path, "regression", epochs=25)
    said = found.scores_NK[parts().test, 0]
    assert 220 < said.mean() < 320
    assert watch_scores(said[:, None], target("regression").take(parts().test))["r2"] > 0.5


def test_test_answers_change_nothing_that_is_chosen(tmp_path):
    whole = fitted(tmp_path)
    few = parts()
    few = few._replace(test=few.test & (np.arange(ROWS) < 12))
    again = fitted(tmp_path, round=few)
    assert again.candidates == whole.candidates


def test_tokens_are_computed_once_for_all_rounds_and_seeds(tmp_path):
    fitted(tmp_path)
    kept = sorted((tmp_path / "features").iterdir())
    assert len(kept) == 1
    stamp = kept[0].stat().st_mtime_ns
    fitted(tmp_path, epochs=2)
    assert [one.stat().st_mtime_ns for one in (tmp_path / "features").iterdir()] == [stamp]
    tokens = np.load(kept[0])
    assert (tokens.dtype, tokens.shape) == (np.float16, (ROWS, 8, 32))
    with torch.no_grad():
        own = encoder().eval()(torch.from_numpy(Volumes().voxels[:3]).unsqueeze(1))
    assert np.allclose(tokens[:3], own.numpy(), atol=5e-3)


def test_which_blocks_are_read_is_tried_too_and_goes_with_the_head(tmp_path):
    grid = PoolGridConfig(blocks=["all", "1", "last"], kinds=["attentive"], learning_rates=[1e-2])
    found = fitted(tmp_path, grid=grid, epochs=10)
    assert [one["blocks"] for one in found.candidates] == [[0, 1], [1]], "last is block 1 of two"
    (kept,) = (tmp_path / "features").iterdir()
    tokens = np.load(kept, mmap_mode="r")
    assert tokens.shape == (ROWS, 8, 64), "two blocks side by side"
    assert tokens.nbytes == ROWS * size_of(encoder().config, 2)
    with torch.no_grad():
        own = encoder().eval()(torch.from_numpy(Volumes().voxels[:3]).unsqueeze(1), layers=[0, 1])
    assert np.allclose(tokens[:3], torch.cat(own, dim=-1).numpy(), atol=5e-3)
    head = load_head(tmp_path / "run" / "head")
    assert list(head.levels) == found.chosen["blocks"]
    left = Member(
        about=MemberAbout(encoder="encoder", head="head"),
        kind="nominal",
        encoder=Encoder.from_pretrained(tmp_path / "run" / "encoder"),
        head=head,
    )
    rows = np.flatnonzero(parts().test)
    said = score_batch([left], Volumes().voxels[rows], None).scores_NK
    assert np.allclose(said, found.scores_NK[rows], atol=1e-5)


def test_a_block_beside_others_is_fitted_as_by_itself(tmp_path):
    def told(*blocks):
        grid = PoolGridConfig(blocks=list(blocks), learning_rates=[1e-2])
        return fitted(tmp_path, grid=grid, epochs=3).candidates

    (alone,), beside = told("0"), told("all", "0")
    assert beside[1]["blocks"] == alone["blocks"] == [0]
    assert beside[1]["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert beside[0]["loss"] != pytest.approx(alone["loss"], rel=1e-3)


def test_what_will_be_kept_is_said_in_advance_and_refused_where_there_is_no_room(tmp_path):
    grid = PoolGridConfig(blocks=["last", "all"], learning_rates=[1e-3, 1e-2])
    assert tell_kept(recipe(grid=grid), encoder().config, 1000) == (
        "training.grid: 4 pools on the tokens of blocks 0, 1, 0.00102 MB a volume, 1.02 MB on disk "
        "for each encoder"
    )
    with pytest.raises(ValueError, match=r"training.grid keeps 1,000,000,000,000 MB of tokens"):
        check_room(10**18, tmp_path)


def test_a_pool_over_all_blocks_grows_with_their_number_and_not_with_its_square():
    def weights(**settings):
        head = AttentiveHead(classes=["a", "b"], heads=2, depth=1, **settings)
        return sum(one.numel() for one in head.parameters())

    one, all_blocks = weights(width=32), weights(width=12 * 32, joined=32)
    assert all_blocks - one == 12 * 32 * 32 + 32, "the map that joins them"


def test_lists_are_tried_with_each_other_and_empty_ones_are_the_recipe():
    made = candidates_of(recipe(grid=PoolGridConfig(depths=[1, 2], weight_decays=[0.0, 0.1])), 2)
    assert [(one.depth, one.weight_decay) for one in made] == [
        *((1, 0.0), (1, 0.1), (2, 0.0), (2, 0.1)),
    ]
    assert {one.learning_rate for one in made} == {TrainingConfig().lr_head}
    assert {one.kind for one in made} == {"attentive"}
    both = PoolGridConfig(kinds=["cross_attention"], depths=[1, 2])
    assert len(candidates_of(recipe(grid=both), 2)) == 1, "it has no depth"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"label_smoothing": 0.1}, r"training.label_smoothing \(0.1\) does nothing beside"),
        ({"augmentation": AugmentationConfig(flip=0.5)}, "training.augmentation"),
        ({"class_weights": [1.0, 2.0]}, "training.class_weights"),
        ({"head": HeadConfig(dropout=0.1)}, r"training.head.dropout \(0.1\)"),
    ],
)
def test_what_the_grid_does_not_read_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        FinetuneConfig(mode="attentive", training=TrainingConfig(grid=GRID, **settings))


def test_a_grid_belongs_to_one_mode_and_has_values_that_can_be_tried():
    with pytest.raises(
        ValueError, match=r"training\.grid is tried by mode=attentive; mode is full"
    ):
        FinetuneConfig(mode="full", training=TrainingConfig(grid=GRID))
    with pytest.raises(ValueError, match=r"training.grid.kinds \(linear\)"):
        PoolGridConfig(kinds=["linear"])
    with pytest.raises(ValueError, match=r"training.grid.learning_rates \(0.0\) must be positive"):
        PoolGridConfig(learning_rates=[0.0])
    with pytest.raises(ValueError, match=r"training.grid.depths \(0\) must be 1 or more"):
        PoolGridConfig(depths=[0])
    with pytest.raises(ValueError, match=r"training.grid.blocks \(early\) must be last, late, all"):
        PoolGridConfig(blocks=["early"])
    with pytest.raises(ValueError, match=r"training.grid.blocks \(2\) must be below 2"):
        PoolGridConfig(blocks=["2"]).read(2)
