"""Damaged files of every format, folders and tables: a refusal in one line each, and no row lost.

Some hundreds of the ten thousand that `benchmarks/mutants.py` makes.
"""

import os
from collections import Counter

import pytest
from oct_io.errors import STAGES

pytestmark = pytest.mark.slow

COUNT = 480
SEED = int(os.environ.get("OCT_FUZZ_SEED", "0"))  # another one, other damage
ALLOWED = {*STAGES, "read", "refused"}


@pytest.fixture(scope="module")
def found(neighbour, tmp_path_factory):
    """(mutant, answer) of each, with a `gs` on the path that leaves a mark."""
    folder = tmp_path_factory.mktemp("mutants")
    program, started = folder / "bin/gs", folder / "started"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho 10.0\ntouch {started}\n")
    program.chmod(0o755)
    damage, fuzzing = (neighbour(__file__, name) for name in ("damage.py", "fuzzing.py"))
    bases = damage.write_bases(folder / "bases")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        answers = damage.ask_all(fuzzing, bases, range(COUNT), SEED, folder, jobs=1)
    assert not started.exists()
    return answers


def test_nothing_that_is_damaged_does_more_than_be_refused(found):
    wrong = [
        (one.number, one.family, one.kind, answer["outcome"], answer["reason"][:200])
        for one, answer in found
        if answer["outcome"] not in ALLOWED
    ]
    assert wrong == []
    assert max(answer["s"] for _, answer in found) < 10


def test_mutants_of_every_family_are_refused_and_of_nearly_all_some_are_read(found):
    seen = Counter((one.family, answer["outcome"] == "read") for one, answer in found)
    families = {one.family for one, _ in found}
    assert len(families) == 12
    assert all(seen[family, False] for family in families)
    assert sum(bool(seen[family, True]) for family in families) >= 10
