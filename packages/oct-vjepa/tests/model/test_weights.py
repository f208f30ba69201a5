"""Saved weights come back bit for bit, and what does not fit is refused by name."""

import json

import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig, WeightsError
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
