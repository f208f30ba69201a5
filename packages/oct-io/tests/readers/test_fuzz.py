"""A thousand damaged scans: none may crash, hang, fill the memory or escape the quarantine."""

import os
from collections import Counter

import pytest
from oct_io import WINDOWS, build_cache, read_manifest
from oct_io.errors import STAGES
from oct_io.quarantine import QUARANTINE, read_quarantine

pytestmark = pytest.mark.slow

COUNT = 1000
SEED = int(os.environ.get("OCT_FUZZ_SEED", "0"))  # another one, other damage
JOBS = 2


@pytest.fixture(scope="module")
def fuzzing(neighbour):
    return neighbour(__file__, "fuzzing.py")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "tree"


@pytest.fixture(scope="module")
def mutants(fuzzing, root):
    root.mkdir()
    return fuzzing.write_tree(root, COUNT, SEED)


@pytest.fixture(scope="module")
def answers(fuzzing, root, mutants):
    """Outcome of reading each file in a process of its own, with limits."""
    warm = [root / one.path for one in mutants if one.kind == "none"]
    return fuzzing.read_all(root, mutants, warm, JOBS)


@pytest.fixture(scope="module")
def refusals(root, mutants, answers):
    """Quarantine of the real cache build: path -> (stage, reason)."""
    records = read_manifest(root)
    out = root.with_name("cache")
    index = build_cache(
        records, root, WINDOWS["tiny"], out, jobs=JOBS, max_bad_fraction=1.0, shard_bytes=1 << 20
    )
    found = read_quarantine(out / QUARANTINE)
    assert len(found) + len(index.entries) == len(records)
    return {one.path: (one.stage, one.reason) for one in found}


def test_no_damaged_scan_crashes_hangs_or_leaks_an_exception(fuzzing, mutants, answers):
    outcomes = {path: answer["outcome"] for path, answer in answers.items()}
    print("\n" + fuzzing.show(fuzzing.tabulate(mutants, outcomes)))
    kinds = {one.path: f"{one.kind} of {one.base}" for one in mutants}
    allowed = {*STAGES, "read"}
    wrong = [
        (kinds[path], answer["outcome"], answer["reason"][:200])
        for path, answer in answers.items()
        if answer["outcome"] not in allowed
    ]
    assert wrong == []
    assert max(answer["s"] for answer in answers.values()) < 10


def test_sound_scans_among_them_are_read(mutants, answers):
    sound = {one.path for one in mutants if one.kind == "none"}
    assert {answers[path]["outcome"] for path in sound} == {"read"}
    assert not any("lost_bytes" in answers[path]["reason"] for path in sound)


def test_each_scan_that_cannot_be_read_is_in_the_quarantine_with_its_stage(
    mutants, answers, refusals
):
    for path, answer in answers.items():
        if answer["outcome"] in STAGES:
            assert path in refusals
            assert refusals[path][0] == answer["outcome"]
    assert all(stage in STAGES for stage, _ in refusals.values())


def test_no_reason_names_a_participant_or_spans_lines(refusals):
    for _, reason in refusals.values():
        assert "4007" not in reason
        assert "\n" not in reason
        assert len(reason) < 300


def test_paths_that_leave_the_root_are_refused_unread(mutants, refusals):
    outside = [one.path for one in mutants if one.kind == "path out of the root"]
    assert len(outside) >= COUNT // 20
    stages = Counter(refusals[path][0] for path in outside if path in refusals)
    assert sum(stages.values()) >= len(set(outside)) * 0.9
    assert set(stages) == {"fetch"}


def test_bombs_are_refused(mutants, answers):
    for one in mutants:
        if "bomb" in one.kind:
            assert answers[one.path]["outcome"] in STAGES, one


def test_most_zeroed_codestreams_are_refused_or_flagged(mutants, answers):
    zeroed = [one for one in mutants if one.kind == "zeroed codestream" and one.base != "deflated"]
    compressed = [one for one in zeroed if not one.base.startswith("native")]
    read = [one for one in compressed if answers[one.path]["outcome"] == "read"]
    silent = [one for one in read if "lost_bytes" not in answers[one.path]["reason"]]
    missed = Counter(one.base for one in silent)
    share = 1 - len(silent) / len(compressed)
    print(
        f"\n{share:.1%} of {len(compressed)} zeroed codestreams caught, {len(read) - len(silent)} "
        f"of them by a flag; missed: {dict(missed)}"
    )
    assert share > 0.9
