"""What XLA compiles is kept on a TPU, where the user wants it, or not at all."""

import stat
import subprocess
import sys
from importlib.util import find_spec

import pytest
from oct_xla.devices.compiled import PLACE, folder_of_compilations
from oct_xla.errors import DeviceError
from programs import QUIET

PROGRAM = """
import os
import oct_xla.devices.xla as xla
xla._keep_compilations()
print(repr(os.environ.get("XLA_PERSISTENT_CACHE_PATH")))
xla.torch_xla.manual_seed(3)
print(float(xla.torch.ones(3, device=xla.torch_xla.device()).sum()))
os.environ["PJRT_DEVICE"] = "TPU"
xla._keep_compilations()  # too late: torch-xla would refuse
print(repr(os.environ.get("XLA_PERSISTENT_CACHE_PATH")))
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PJRT_DEVICE", "TPU")
    monkeypatch.delenv(PLACE, raising=False)
    return tmp_path


def test_a_tpu_keeps_them_in_a_folder_that_nobody_else_writes(home):
    assert folder_of_compilations() == home / "oct-xla/compiled"
    assert stat.S_IMODE((home / "oct-xla/compiled").stat().st_mode) == 0o700
    assert folder_of_compilations() == home / "oct-xla/compiled"


@pytest.mark.parametrize("place", ["", "/mnt/compiled"])
def test_what_the_user_says_of_them_stands(home, monkeypatch, place):
    monkeypatch.setenv(PLACE, place)
    assert folder_of_compilations() is None
    assert not (home / "oct-xla").exists()


@pytest.mark.parametrize("device", ["CPU", ""])
def test_none_are_kept_where_torch_xla_cannot_read_them_back(home, monkeypatch, device):
    monkeypatch.setenv("PJRT_DEVICE", device)
    assert folder_of_compilations() is None
    assert not (home / "oct-xla").exists()


def test_a_folder_that_cannot_be_made_is_named_with_the_cure(home):
    (home / "oct-xla").write_text("")
    with pytest.raises(DeviceError, match=r"cannot be made, and .*XLA_PERSISTENT_CACHE_PATH name"):
        folder_of_compilations()


@pytest.mark.drill
@pytest.mark.parametrize(
    ("device", "kept"), [("CPU", "None"), ("TPU", "'{home}/oct-xla/compiled'")]
)
def test_torch_xla_is_told_before_its_first_graph_alone(home, device, kept):
    if find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed; it has wheels for Linux x86_64 only")
    program = PROGRAM if device == "CPU" else PROGRAM.split("xla.torch_xla")[0]
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**QUIET, "PJRT_DEVICE": device, "XDG_CACHE_HOME": str(home)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, *others = done.stdout.splitlines()
    assert first == ("None" if device == "CPU" else repr(str(home / "oct-xla/compiled")))
    assert others == (["3.0", "None"] if device == "CPU" else [])
