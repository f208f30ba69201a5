"""Saved weights come back bit for bit, and what does not fit is refused by name."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig, WeightsError
from oct_vjepa.heads.build import load_head
from oct_vjepa.heads.mlp import MlpHead
from oct_vjepa.model.weights import weights_fingerprint
from safetensors.torch import load_file, save_file


@pytest.fixture
def saved(encoder, tmp_path):
    encoder.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def test_an_encoder_comes_back_bit_for_bit(encoder, saved, volume):
    again = Encoder.from_pretrained(saved)
    assert again.config == encoder.config
    assert not again.training
    assert torch.equal(again(volume), encoder(volume))
    for name, value in encoder.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_saving_over_an_older_encoder_replaces_it_and_leaves_nothing_else(saved):
    torch.manual_seed(9)
    other = Encoder(EncoderConfig(width=24, depth=1, heads=2))
    other.save_pretrained(saved)
    assert Encoder.from_pretrained(saved).config.width == 24
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in saved.parent.iterdir()] == ["encoder"]


def test_a_save_that_fails_leaves_the_old_encoder_alone(encoder, saved, volume):
    before = encoder(volume)
    broken = Encoder(encoder.config)
    broken.config.rotary = object()  # cannot be written as JSON
    with pytest.raises(TypeError):
        broken.save_pretrained(saved)
    assert torch.equal(Encoder.from_pretrained(saved)(volume), before)
    assert [path.name for path in saved.parent.iterdir()] == ["encoder"]


def test_a_missing_folder_names_the_file(tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere.config\.json: cannot be read"):
        Encoder.from_pretrained(tmp_path / "nowhere")


def test_missing_and_unexpected_keys_are_listed(saved):
    state = load_file(saved / "model.safetensors")
    state["head.weight"] = state.pop("norm.weight")
    save_file(state, saved / "model.safetensors")
    with pytest.raises(
        WeightsError, match=r"missing \['norm\.weight'\]; unexpected \['head\.weight'\]"
    ):
        Encoder.from_pretrained(saved)


def test_another_shape_is_named(saved):
    state = load_file(saved / "model.safetensors")
    state["norm.weight"] = torch.ones(7)
    save_file(state, saved / "model.safetensors")
    with pytest.raises(WeightsError, match=r"norm\.weight is \(7,\) in the file, \(48,\) wanted"):
        Encoder.from_pretrained(saved)


def test_weights_cut_short_are_refused(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"model\.safetensors: cannot be read"):
        Encoder.from_pretrained(saved)


def edit(saved, change):
    document = json.loads((saved / "config.json").read_text())
    change(document)
    (saved / "config.json").write_text(json.dumps(document, indent=2) + "\n")


def test_an_edited_configuration_is_refused(saved):
    edit(saved, lambda document: document["encoder"].update(input_mean=0.0))
    with pytest.raises(WeightsError, match=r"not written together with config\.json"):
        Encoder.from_pretrained(saved)


def test_the_layout_of_the_configuration_does_not_matter(saved):
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    Encoder.from_pretrained(saved)


def test_a_file_where_the_folder_should_be_is_refused(encoder, tmp_path):
    (tmp_path / "encoder").write_text("")
    with pytest.raises(WeightsError, match="is a file"):
        encoder.save_pretrained(tmp_path / "encoder")


def test_unknown_settings_are_listed(saved):
    edit(saved, lambda document: document["encoder"].update(colour="blue"))
    with pytest.raises(WeightsError, match=r"unknown encoder settings \['colour'\]"):
        Encoder.from_pretrained(saved)


def test_settings_that_break_a_rule_are_refused(saved):
    edit(saved, lambda document: document["encoder"].update(heads=7))
    with pytest.raises(WeightsError, match=r"config\.json is not valid: encoder\.width \(48\)"):
        Encoder.from_pretrained(saved)


def test_a_newer_format_asks_for_an_upgrade(saved):
    edit(saved, lambda document: document.update(format_version=2))
    with pytest.raises(WeightsError, match="upgrade oct-vjepa"):
        Encoder.from_pretrained(saved)


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "head"}'])
def test_a_file_that_is_no_encoder_configuration_is_refused(saved, text):
    (saved / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"config\.json"):
        Encoder.from_pretrained(saved)


@pytest.mark.parametrize("positions", ["rotary", "learned", "sincos"])
def test_reading_draws_nothing_and_misses_nothing(positions, small_config, volume, tmp_path):
    encoder = Encoder(replace(small_config, positions=positions)).eval()
    encoder.save_pretrained(tmp_path / "encoder")
    before = torch.get_rng_state()
    again = Encoder.from_pretrained(tmp_path / "encoder")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(again(volume), encoder(volume))
    assert all(weight.requires_grad for weight in again.parameters())


def test_reading_a_head_draws_nothing(tmp_path):
    head = MlpHead(width=6, classes=["a", "b"], pool="mean", hidden=3)
    head.save_pretrained(tmp_path / "head")
    before = torch.get_rng_state()
    again = load_head(tmp_path / "head")
    assert torch.equal(torch.get_rng_state(), before)
    features = torch.arange(12.0).view(2, 6)
    assert torch.equal(again(features), head.eval()(features))


def test_reading_an_encoder_does_not_import_the_compiler(saved):
    code = (
        "import oct_vjepa, sys; encoder = oct_vjepa.Encoder.from_pretrained(sys.argv[1]);"
        "print(encoder.norm.weight.device, 'torch._dynamo' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "cpu False\n"


def test_weights_in_bfloat16_are_read_in_float32_and_owned(encoder, saved):
    encoder.bfloat16().save_pretrained(saved)
    again = Encoder.from_pretrained(saved)
    assert {weight.dtype for weight in again.parameters()} == {torch.float32}
    kept = again.norm.weight.detach().clone()
    (saved / "model.safetensors").write_bytes(b"gone")
    assert torch.equal(again.norm.weight, kept)


def test_an_encoder_is_read_to_the_device_that_is_asked_for(saved):
    encoder = Encoder.from_pretrained(saved, device="meta")
    assert {weight.device.type for weight in encoder.parameters()} == {"meta"}


def test_the_settings_of_a_run_stand_above_those_of_the_file_where_the_weights_do_not_care(
    encoder, saved, small_config
):
    wanted = replace(small_config, drop_path=0.1, input_shape=(4, 16, 32), input_mean=1.0)
    again = Encoder.from_pretrained(saved, wanted)
    assert again.config == wanted
    assert again.blocks[-1].drop_path == 0.1
    assert torch.equal(again.norm.weight, encoder.norm.weight)
    assert not again.training


def test_a_setting_that_the_weights_depend_on_is_refused_with_both_values(saved, small_config):
    with pytest.raises(WeightsError, match=r"encoder\.rotary=vjepa2, and this run has interleaved"):
        Encoder.from_pretrained(saved, replace(small_config, rotary="interleaved"))


def test_the_shape_of_volumes_is_not_free_where_each_place_has_a_row(small_config, tmp_path):
    learned = replace(small_config, positions="learned")
    Encoder(learned).save_pretrained(tmp_path / "encoder")
    with pytest.raises(WeightsError, match=r"encoder\.input_shape=\(4, 16, 24\)"):
        Encoder.from_pretrained(tmp_path / "encoder", replace(learned, input_shape=(4, 16, 32)))


def test_a_folder_of_transformers_names_the_command_that_reads_it(saved):
    (saved / "config.json").write_text('{"model_type": "vjepa2"}')
    with pytest.raises(WeightsError, match=r"run oct-vjepa convert .*encoder NEW_FOLDER first"):
        Encoder.from_pretrained(saved)


def test_a_fingerprint_stands_for_weights_of_any_type(encoder):
    exact = weights_fingerprint(encoder)
    rounded = weights_fingerprint(encoder.bfloat16())
    assert rounded == weights_fingerprint(encoder)
    with torch.no_grad():
        encoder.norm.weight[0] += 1
    assert len({exact, rounded, weights_fingerprint(encoder)}) == 3
