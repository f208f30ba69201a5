"""Whether a step counts is decided on the device, which nobody waits for between two rows."""

import json
import math
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from oct_xla.steps.adamw import GatedAdamW
from oct_xla.steps.guard import Guard
from programs import QUIET, XLA, torchrun

PROGRAM = str(Path(__file__).parents[1] / "gated.py")
KINDS = [
    pytest.param("cpu", id="cpu"),
    pytest.param("xla", id="xla", marks=pytest.mark.slow),
    pytest.param("fsdp", id="fsdp", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the program finds on one kind of runtime, started once for each."""
    known = {}

    def find(kind):
        if kind == "xla" and find_spec("torch_xla") is None:
            pytest.skip("torch-xla is not installed; it has wheels for Linux x86_64 only")
        if kind not in known:
            names = ("cpu", "fsdp") if kind == "fsdp" else (kind, "ddp")
            launcher = torchrun(2) if kind == "fsdp" else ()
            done = subprocess.run(
                [sys.executable, *launcher, PROGRAM, *names, str(tmp_path_factory.mktemp(kind))],
                env={**QUIET, **XLA, "CPU_NUM_DEVICES": "2"},
                capture_output=True, text=True, check=False, timeout=300,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            known[kind] = json.loads(done.stdout.splitlines()[-1])
        return known[kind]

    return find


@pytest.mark.slow
def test_twenty_steps_with_three_rows_read_the_device_three_times(found):
    assert [row["step"] for row in found("xla")["rows"]] == [1, 10, 20]
    assert found("xla")["reads"] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_is_not_finite_leaves_weights_moments_their_count_and_the_teacher(found, kind):
    one = found(kind)
    assert one["equal"] == [8], "the checkpoint after the bad step is the one before it, no other"
    assert one["counts"] == [1, 2, 3, 4, 5, 6, 7, 7, 8, 9]
    assert one["teacher_moves"]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_that_nobody_has_read_are_counted_in_the_next_row(found, kind):
    assert [row["skipped"] for row in found(kind)["rows"]] == [0, 1, 3]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["xla", "fsdp"])
def test_after_steps_that_were_not_applied_losses_are_those_of_the_cpu(found, kind):
    for row, wanted in zip(found(kind)["rows"], found("cpu")["rows"], strict=True):
        for key in ("loss", "grad_norm", "momentum"):
            assert row[key] == pytest.approx(wanted[key], abs=2e-6), (row["step"], key)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_reads_late_says_and_leaves_what_one_that_reads_at_once_does(found, kind):
    one = found(kind)
    assert one["error"].startswith("step 8: loss or gradient was not finite 3 times in a row; ")
    assert one["left"] or kind == "fsdp"  # which brings what it was given up to date at the end


@pytest.mark.parametrize("kind", KINDS[:2])
def test_an_objective_that_is_not_told_hears_of_applied_steps_only(found, kind):
    one = found(kind)
    assert one["after"] == [step for step in range(20) if step != 7]
    assert [row["skipped"] for row in one["late"]] == [0, 1, 1]


@pytest.mark.parametrize("kind", KINDS[:2])
def test_what_the_loss_of_a_skipped_step_has_noted_down_reaches_no_other_step(found, kind):
    assert found(kind)["used"] == [2] * 19


@pytest.mark.slow
def test_a_step_that_is_not_finite_or_not_read_compiles_nothing(found):
    first, *others = (row["compilations"] for row in found("xla")["rows"])
    assert 0 < first <= others[0] <= first + 1  # the second step has what the first one made
    assert others[1] == others[0]


@pytest.mark.parametrize("there", [False, True])
def test_once_too_many_steps_in_a_row_were_bad_no_other_one_is_applied(there):
    guard, given = Guard(torch.device("cpu"), most=2), [1.0, math.nan, 1.0, math.nan, math.inf, 1.0]
    if there:
        found = [
            guard.decide_there(torch.tensor(loss), torch.tensor(1.0), math.inf) for loss in given
        ]
        facts = guard.facts_there(found[-1]).tolist()
    else:
        found = [guard.decide(loss, 1.0, math.inf) for loss in given]
        facts = guard.facts(found[-1])
    assert [bool(one) for one in found] == [True, False, True, False, False, False]
    assert facts == [0, 4, 3]


def test_a_run_taken_up_with_a_lower_limit_has_one_more_step_to_show_that_it_is_well():
    guard = Guard(torch.device("cpu"), most=2)
    guard.begin(7, 5)
    assert guard.facts(guard.decide(1.0, 1.0, math.inf)) == [1, 7, 0]


def test_the_fused_step_that_is_not_applied_changes_nothing_bit_for_bit():
    weight = torch.nn.Parameter(torch.randn(5, generator=torch.Generator().manual_seed(0)))
    optimizer = GatedAdamW([weight], fused=True)
    kept = []
    for gradient, applied in ((1.0, True), (math.nan, False), (1.0, True)):
        weight.grad = torch.full((5,), gradient)
        optimizer.step_if(torch.tensor(applied))
        kept.append([t.detach().clone() for t in (weight, *optimizer.state[weight].values())])
    equal = [all(map(torch.equal, kept[0], other)) for other in kept[1:]]
    assert equal == [True, False]
