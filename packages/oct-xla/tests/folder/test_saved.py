"""Tensors that are read from a checkpoint's files where they are asked for."""

import sys
from pathlib import Path

import pytest
import torch
from oct_xla import CheckpointError, Checkpoints, LoopConfig, fit, read_checkpoint
from oct_xla.devices.sharding import Piece, joined
from oct_xla.folder.saved import SavedTensors
from safetensors.torch import save_file
from toy import Toy, make_feed

WHOLE = torch.arange(70.0).view(7, 10)


def save(root, cuts, *, axis=0):
    """The checkpoint of step 1, of processes that hold so many rows, or columns, each."""
    store = Checkpoints(root)
    store.open(1)
    first, written = 0, []
    for part, count in enumerate(cuts):
        offset = tuple(first if d == axis else 0 for d in range(2))
        own = Piece(WHOLE.narrow(axis, first, count).clone(), offset, tuple(WHOLE.shape))
        pieces = {"cut": own} if count else {}
        if part == 0:
            pieces |= {"number": Piece.whole(torch.tensor(3.0)), "empty": Piece.whole(WHOLE[:0])}
        written.append(store.write(1, pieces, part=part, parts=len(cuts)))
        first += count
    store.commit(1, written[0], {}, parts=len(cuts))
    return store


@pytest.mark.parametrize(("cuts", "axis"), [((7,), 0), ((3, 3, 1, 0), 0), ((5, 5), 1)])
def test_rows_are_those_of_the_whole_however_it_was_cut(tmp_path, cuts, axis):
    tensors = save(tmp_path, cuts, axis=axis).load(1).tensors
    assert set(tensors) == {"cut", "number", "empty"}
    assert torch.equal(tensors["cut"], WHOLE)
    assert tensors["number"] == 3
    assert tensors["empty"].shape == (0, 10)
    unread = tensors.unread("cut")
    assert unread.shape == WHOLE.shape
    for rows in (slice(0, 7), slice(2, 5), slice(6, 7), slice(7, 7), slice(3, None)):
        assert torch.equal(unread[rows], WHOLE[rows])
    assert torch.equal(tensors.unread("number")[...], torch.tensor(3.0))


def test_only_files_that_hold_something_of_it_are_read(tmp_path):
    store = save(tmp_path, (4, 3))
    other = store.path(1) / "tensors-00002-of-00002.safetensors"
    damaged = bytearray(other.read_bytes())
    damaged[-1] ^= 1
    other.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="is not as it was written"):
        store.load(1)
    tensors = store.load(1, verify=False).tensors  # as one that the first process has verified
    assert torch.equal(tensors.unread("cut")[0:4], WHOLE[:4])
    assert not torch.equal(tensors.unread("cut")[4:7], WHOLE[4:])


def test_a_piece_that_is_missing_is_one_line(tmp_path):
    save_file({"cut": WHOLE[:4].clone()}, tmp_path / "one.safetensors")
    cuts = {"one.safetensors": {"cut": {"offset": [0, 0], "shape": [7, 10]}}}
    with pytest.raises(CheckpointError, match="damaged: cut lacks a piece"):
        SavedTensors(tmp_path, ["one.safetensors"], cuts)


def test_what_was_opened_can_be_read_after_its_folder_is_gone(tmp_path):
    store = save(tmp_path, (7,))
    tensors = read_checkpoint(store.path(1)).tensors
    (store.path(1) / "tensors.safetensors").unlink()
    assert torch.equal(tensors["cut"], WHOLE)


def test_parts_of_neighbours_are_one_piece_and_others_are_none():
    rows = [((slice(n, n + 2), slice(None)), WHOLE[n : n + 2]) for n in (2, 4)]
    piece = joined(rows, WHOLE.shape)
    assert (piece.offset, piece.shape) == ((2, 0), (7, 10))
    assert torch.equal(piece.tensor, WHOLE[2:6])
    padded = [rows[1], ((slice(6, 8), slice(None)), torch.cat([WHOLE[6:], WHOLE[:1]]))]
    assert torch.equal(joined(padded, WHOLE.shape).tensor, WHOLE[4:])
    assert joined([rows[0], ((slice(5, 7), slice(None)), WHOLE[5:])], WHOLE.shape) is None
    everywhere = [((slice(None), slice(None)), WHOLE)] * 2
    assert torch.equal(joined(everywhere, WHOLE.shape).tensor, WHOLE)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_run_that_goes_on_holds_no_file_of_its_checkpoint(tmp_path):
    held = []
    for steps in (4, 8):
        loop = LoopConfig(steps=steps, checkpoint_every=4, evaluate_every=2, hang_after_s=0)

        def look(step):
            maps = Path("/proc/self/maps").read_text().splitlines()
            held.extend(line for line in maps if line.endswith((".safetensors", "(deleted)")))
            return {"held": float(step)}

        fit(Toy(), make_feed(), loop, run_dir=tmp_path, evaluate=look)
    assert not [line for line in held if "safetensors" in line]
