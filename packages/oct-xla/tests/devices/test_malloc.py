"""What a step frees on a CPU is there for the next one, without the kernel."""

import json
import os
import platform
import subprocess
import sys

import pytest

ROUNDS = """
import ctypes, json, resource, sys
import torch
from oct_xla.devices.malloc import MMAP_THRESHOLD, give_freed_memory_back, keep_freed_memory

ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 2**17)  # as every process begins

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    taken = [torch.zeros(2**20) for _ in range(32)]
    del taken
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def both():
    keep_freed_memory()
    give_freed_memory_back()

def runtime():
    __import__("oct_xla").pick_runtime("cpu")

asked = {"own": keep_freed_memory, "both": both, "runtime": runtime}
before = [faults() for _ in range(4)]
answer = asked[sys.argv[1]]() if sys.argv[1] in asked else None
after = [faults() for _ in range(16)]  # the first few still settle where each block lies
print(json.dumps([min(before), min(after), answer is True]))
"""
PAGES = 32 * 4 * 2**20 // 4096


def _faults(how: str, *before: str, **env: str) -> tuple[int, int, bool]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [*before, sys.executable, "-c", ROUNDS, how], capture_output=True, text=True, check=True,
        env=own | env,
    )  # fmt: skip
    before, after, kept = json.loads(done.stdout)
    return before, after, kept


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone gives memory back so")
def test_freed_memory_is_taken_again_without_a_page_fault() -> None:
    before, after, kept = _faults("own")
    assert before > PAGES / 2
    assert after < PAGES / 100
    assert kept


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone gives memory back so")
def test_the_cpu_runtime_asks_for_it() -> None:
    before, after, _ = _faults("runtime")
    assert before > PAGES / 2
    assert after < PAGES / 100


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone gives memory back so")
def test_where_memory_is_short_it_is_given_back_again() -> None:
    before, after, _ = _faults("both")
    assert before > PAGES / 2
    assert after > PAGES / 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone gives memory back so")
def test_a_choice_of_the_user_stands() -> None:
    before, after, kept = _faults("own", MALLOC_MMAP_THRESHOLD_="131072")
    assert after > PAGES / 2
    assert before > PAGES / 2
    assert not kept


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone gives memory back so")
def test_where_addresses_are_limited_each_tensor_is_mapped_by_itself() -> None:
    shell = ("bash", "-c", 'ulimit -d 100000000; exec "$@"', "limited")
    before, after, kept = _faults("own", *shell)
    assert after > PAGES / 2
    assert before > PAGES / 2
    assert not kept
