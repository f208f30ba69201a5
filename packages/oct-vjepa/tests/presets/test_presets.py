"""Presets build what they name, say where each number comes from, and what it costs."""

import subprocess
import sys

import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig, Jepa, JepaConfig, MaskingConfig, PredictorConfig
from oct_vjepa.cli import main
from oct_vjepa.model.configuration import SIZES
from oct_vjepa.presets.choices import ENCODERS, MASKINGS, OBJECTIVES
from oct_vjepa.presets.costs import block_numbers, cost_of, step_flops
from oct_vjepa.presets.runs import PRESETS, preset

NAMES = (
    "cpu_smoke", "small_oct", "base_oct", "dense_oct", "continue_vjepa2_large",
    "predecessor_fixed", "predecessor_asis",
)  # fmt: skip


def test_the_presets_are_the_promised_ones():
    assert tuple(PRESETS) == NAMES
    with pytest.raises(ValueError, match=r"preset 'huge_oct' must be one of \['base_oct'"):
        preset("huge_oct")


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_a_source_and_every_section_is_valid(name):
    chosen = PRESETS[name]
    for settings in chosen.sections().values():
        assert all(given.source for given in settings.values())
    assert chosen.schedule_config().peak > 0
    assert set(chosen.training) == {"batch_size", "steps", "weight_decay", "betas", "clip_norm"}
    config = chosen.encoder.config()
    chosen.masking.config().check(config.grid)
    with torch.device("meta"):
        objective = chosen.assemble(Encoder(config))
    for field, given in chosen.objective.settings.items():
        assert getattr(objective.config, field) == given.value


def test_presets_and_names_are_read_without_torch_and_without_the_command_lines_library():
    script = "import oct_vjepa.presets.runs as r; r.preset('base_oct').encoder.config(); import sys"
    shown = "print(sorted({'torch', 'hydra', 'omegaconf'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; {shown}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("named", [ENCODERS, MASKINGS, OBJECTIVES])
def test_what_has_a_name_knows_it_and_says_what_it_is(named):
    for name, one in named.items():
        assert one.name == name
        assert one.about.endswith(".")
        assert one.config() == one.config()


def test_every_size_of_the_family_is_an_encoder_of_its_name():
    assert ENCODERS.keys() == SIZES.keys()
    for name, one in ENCODERS.items():
        found = one.config()
        assert (found.width, found.depth, found.heads, found.mlp_ratio) == SIZES[name]


def test_the_numbers_of_a_name_have_sources():
    settings = [one.settings for one in (*ENCODERS.values(), *OBJECTIVES.values())]
    settings += [one.predictor for one in OBJECTIVES.values()]
    settings += [one for masks in MASKINGS.values() for one in masks.sets]
    assert all(given.source for one in settings for given in one.values())


def test_a_preset_says_in_what_it_is_not_what_its_parts_are_called():
    assert PRESETS["base_oct"].changes() == {"encoder": {}, "objective": {}}
    assert PRESETS["dense_oct"].changes()["encoder"] == {"rotary": "interleaved"}
    changed = PRESETS["small_oct"].changes()
    assert changed["encoder"] == {"input_shape": (64, 256, 256)}
    assert changed["objective"]["predictor"] == {"width": 192, "depth": 6, "heads": 6}


def test_the_predecessor_as_it_ran_warns_and_the_others_do_not():
    with torch.device("meta"):
        with pytest.warns(UserWarning, match="does not train a JEPA"):
            PRESETS["predecessor_asis"].build()
        PRESETS["predecessor_fixed"].build()


def test_cpu_smoke_learns_from_the_encoder_it_is_given():
    torch.manual_seed(0)
    encoder = Encoder(PRESETS["cpu_smoke"].encoder.config())
    objective = PRESETS["cpu_smoke"].build(encoder)
    assert objective.encoder is encoder
    volume = torch.randint(0, 256, (2, 1, 8, 64, 64), dtype=torch.uint8)
    loss = objective.loss(volume, torch.Generator().manual_seed(0))["loss"]
    loss.backward()
    assert loss.isfinite()


def test_a_converted_encoder_keeps_its_shape_and_recomputes_as_the_preset_says():
    with torch.device("meta"):
        encoder = Encoder(PRESETS["base_oct"].encoder.config())
        objective = PRESETS["continue_vjepa2_large"].build(encoder)
    assert objective.encoder.config.recompute
    assert objective.predictor.encoder_config.recompute
    assert objective.encoder.config.width == 768


def block_flops(tokens, width):
    """Of one block: qkv 6 N D^2, projection 2 N D^2, MLP 16 N D^2, attention two of 2 N^2 D."""
    return 24 * tokens * width**2 + 4 * tokens**2 * width


def test_flops_counted_on_meta_equal_the_formula():
    config = EncoderConfig(input_shape=(4, 64, 64), patch_size=(2, 8, 8), width=96, depth=3)
    with torch.device("meta"):
        jepa = Jepa(
            Encoder(config), JepaConfig(predictor=PredictorConfig(width=48, depth=2, heads=3))
        )
    tokens, voxels = config.tokens, 2 * 8 * 8
    wanted = config.depth * block_flops(tokens, 96) + 2 * tokens * voxels * 96  # teacher
    for one in MaskingConfig().sets:
        targets, contexts = one.sizes(config.grid)
        both = targets + contexts
        wanted += 3 * config.depth * block_flops(contexts, 96)
        wanted += 2 * (2 * contexts * voxels * 96)  # voxels need no gradient
        wanted += 3 * 2 * block_flops(both, 48)
        wanted += 3 * 2 * (contexts + targets) * 96 * 48  # into and out of the predictor
    assert step_flops(jepa) == pytest.approx(wanted, rel=1e-3)
    assert step_flops(jepa, batch=3) == 3 * step_flops(jepa)


def test_the_predecessors_step_costs_what_was_worked_out_for_it():
    cost = cost_of("predecessor_asis", PRESETS["predecessor_asis"])
    assert cost.encoder == 92_921_088  # counted in its own model
    assert cost.predictor == 1_182_720
    assert cost.flops / 1e12 == pytest.approx(18.8, abs=0.2)


def test_a_block_keeps_what_the_formula_says():
    config = EncoderConfig(width=96, heads=3)
    tokens = 64
    kept = {}
    for depth in (2, 6):
        torch.manual_seed(0)
        encoder = Encoder(EncoderConfig(width=96, heads=3, depth=depth))
        own = {weight.data_ptr() for weight in encoder.parameters()}
        seen = {}

        def note(tensor, own=own, seen=seen):
            if tensor.untyped_storage().data_ptr() not in own:
                seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        ids = torch.arange(tokens).expand(2, -1)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            out = encoder(torch.zeros(2, 1, *config.input_shape), ids)
        kept[depth] = sum(seen.values())
        del out
    a_block = (kept[6] - kept[2]) / 4 / 4 / 2  # blocks, bytes a number, samples
    assert a_block == pytest.approx(block_numbers(tokens, 96), rel=0.1)


def test_the_command_prints_one_row_a_preset_and_the_sources_of_those_named(capsys):
    assert main(["presets", "cpu_smoke"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split()[0] == "preset"
    assert "cpu_smoke" in out.splitlines()[1]
    assert "V-JEPA 2, configs/train/vitl16/pretrain-256px-16f.yaml" in out
    assert main(["presets", "nonsense"]) == 2
    assert "must be one of" in capsys.readouterr().err
