"""What is proposed for which data and machine, and how it is fitted to hours."""

from dataclasses import replace

import pytest
from oct_vjepa.plans.facts import Facts, Measured
from oct_vjepa.plans.proposal import fit_to_hours, hours_of, propose
from oct_vjepa.presets.runs import PRESETS
from oct_vjepa.presets.sources import Given

LAPTOP = Facts(
    volumes=1113, participants=831, input_shape=(1, 96, 256), device="cpu", memory_gb=16, cores=2,
    hours=1,
)  # fmt: skip
SERVER = replace(
    LAPTOP, volumes=25_000, input_shape=(64, 384, 384), device="cuda", memory_gb=80, cores=16,
    hours=24,
)  # fmt: skip


SMALL = replace(LAPTOP, input_shape=(8, 64, 64))


@pytest.mark.parametrize("facts", [LAPTOP, SERVER, SMALL])
def test_a_proposal_is_a_valid_objective_and_every_value_has_a_reason(facts):
    plan = propose(facts)
    encoder = plan.encoder.config()
    assert encoder.input_shape == facts.input_shape
    plan.masking.config().check(encoder.grid)
    assert plan.objective.config().blocks_of(encoder.depth)
    assert plan.schedule_config().peak > 0
    given = [one for section in plan.sections().values() for one in section.values()]
    assert all(isinstance(one, Given) and len(one.source) > 3 for one in given)


def test_a_proposal_on_a_laptop_takes_a_step():
    import torch

    plan = propose(replace(LAPTOP, input_shape=(8, 32, 32)))
    objective = plan.build()
    volumes = torch.randint(0, 255, (2, 1, 8, 32, 32), dtype=torch.uint8)
    loss = objective.loss(volumes, torch.Generator().manual_seed(0))["loss"]
    loss.backward()
    assert loss.isfinite()


def test_the_size_goes_by_device_memory_and_volumes():
    assert propose(LAPTOP).encoder.size.value == "bscan_tiny"
    assert propose(SMALL).encoder.size.value == "cpu_smoke"
    assert propose(SERVER).encoder.size.value == "base"
    assert propose(replace(SERVER, volumes=800)).encoder.size.value == "small"
    assert propose(replace(SERVER, memory_gb=16)).encoder.size.value == "small"
    assert propose(replace(SERVER, memory_gb=40)).encoder.settings["recompute"].value is True
    assert "recompute" not in propose(SERVER).encoder.settings


def test_whole_scans_have_bounded_targets_and_small_ones_do_not():
    assert propose(SERVER).masking.sets[0]["max_targets"].value == 2048
    assert "max_targets" not in propose(LAPTOP).masking.sets[0]


def test_masks_and_objective_are_those_that_were_best_where_few_patches_were_tried():
    def of(facts):
        plan = propose(facts)
        return plan.objective.name, plan.masking.name

    assert of(LAPTOP) == ("vjepa21_filters", "mae")
    assert of(SMALL) == ("vjepa2_voxels", "mae")
    assert of(replace(SMALL, device="cuda")) == ("vjepa2_voxels", "mae")
    assert of(replace(LAPTOP, input_shape=(1, 496, 768))) == ("vjepa21_voxels", "multiblock")
    assert of(SERVER) == ("vjepa21_voxels", "multiblock_bounded")
    from_presets = PRESETS["cpu_smoke"]
    assert from_presets.objective.name.removesuffix("_smoke") == of(SMALL)[0]
    assert from_presets.masking.name == of(SMALL)[1]
    assert from_presets.encoder.config().patch_size == propose(SMALL).encoder.config().patch_size


@pytest.mark.parametrize(
    ("volumes", "steps"), [(10, 800), (1113, 6957), (25_000, 78_125), (1_000_000, 100_000)]
)
def test_steps_are_passes_over_the_data_within_bounds(volumes, steps):
    facts = replace(LAPTOP if volumes < 2000 else SERVER, volumes=volumes)
    assert propose(facts).training["steps"].value == steps


def test_a_batch_is_no_larger_than_the_data():
    assert propose(replace(LAPTOP, volumes=10)).training["batch_size"].value == 10


@pytest.mark.parametrize(
    ("steps", "start", "end"), [(800, 0.98, 1.0), (6957, 0.9977, 1.0), (78_125, 0.99925, 0.99925)]
)
def test_the_momentum_goes_with_the_length_of_the_run(steps, start, end):
    plan = propose(SERVER if steps > 50_000 else LAPTOP)
    plan = fit_to_hours(
        plan, replace(LAPTOP, hours=steps / 3600 + 1e-6), Measured(step_s=1.0, steps=3)
    )
    assert plan.training["steps"].value == steps
    assert plan.objective.settings["ema_start"].value == start
    assert plan.objective.settings["ema_end"].value == end


def test_hours_cut_the_steps_at_the_measured_pace_and_say_so():
    measured = Measured(step_s=2.0, steps=3, accumulate=4)
    plan = fit_to_hours(propose(LAPTOP), LAPTOP, measured)
    steps = plan.training["steps"]
    assert steps.value == 1800
    assert steps.source == "measured: 2 s a step, so many in 1 h; the data asks for 6,957"
    assert plan.training["accumulate"] == (4, "measured: fewer do not fit the memory")
    assert "measured" not in propose(LAPTOP).training["accumulate"].source
    assert hours_of(plan, measured) == pytest.approx(1.0)
    ample = fit_to_hours(propose(LAPTOP), replace(LAPTOP, hours=100), measured)
    assert ample.training["steps"].value == 6957


def test_volumes_that_no_patch_divides_are_refused():
    with pytest.raises(ValueError, match="no patch divides"):
        propose(replace(LAPTOP, input_shape=(1, 97, 256)))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"volumes": 0}, "facts.volumes"), ({"hours": 0}, "facts.hours"), ({"device": "x"}, "device")],
)
def test_facts_that_cannot_be_are_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        replace(LAPTOP, **change)
