"""Files that appear whole or not at all, and what is said where a disk does not take them."""

import errno
import resource
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from oct_vjepa import Encoder, WeightsError
from oct_vjepa.saving import write_text, write_whole
from safetensors.numpy import save_file

LIMIT = 1000  # bytes of a file


@contextmanager
def small_disk():
    """One that takes no file above `LIMIT`, as a full one takes none at all."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "new" * LIMIT),
        lambda path: write_whole(path, lambda draft: save_file({"a": np.ones(LIMIT)}, draft)),
    ],
    ids=["a text", "safetensors"],
)
def test_a_disk_that_does_not_take_a_file_names_it_and_keeps_the_old_one(write, tmp_path):
    path = tmp_path / "results"
    path.write_text("old")
    with pytest.raises(OSError, match="File too large") as told, small_disk():
        write(path)
    assert (told.value.errno, told.value.filename) == (errno.EFBIG, str(path))
    assert [one.name for one in tmp_path.iterdir()] == ["results"], "no draft takes the room"
    assert path.read_text() == "old"


def test_an_error_that_is_no_disks_passes_as_it_is(tmp_path):
    def write(path):
        raise WeightsError("this is ours")

    with pytest.raises(WeightsError, match=r"^this is ours$"):
        write_whole(tmp_path / "results", write)


def test_weights_that_a_disk_does_not_take_name_their_folder(small_config, tmp_path):
    torch.manual_seed(0)
    encoder = Encoder(small_config)
    with pytest.raises(OSError, match="File too large") as told, small_disk():
        encoder.save_pretrained(tmp_path / "encoder")
    assert told.value.filename == str(tmp_path / "encoder")
    assert list(tmp_path.iterdir()) == []
