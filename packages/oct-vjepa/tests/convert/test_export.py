"""Encoders run elsewhere: transformers, ONNX and torch.export give the encoder's tokens."""

from dataclasses import replace

import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig, Masks, Predictor, PredictorConfig, WeightsError
from oct_vjepa.cli import main
from oct_vjepa.convert import ConversionConfig, read_encoder, read_predictor, write_encoder
from oct_vjepa.convert.transformers import write

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def config():
    return EncoderConfig(
        input_shape=(4, 32, 32), patch_size=(2, 16, 16), channels=1, width=48, depth=2, heads=2,
        input_mean=100.0, input_std=50.0,
    )  # fmt: skip


def shaken(module):
    """Random biases, norms and mask tokens, so that none can be lost unseen."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    return module.eval()


@pytest.fixture(scope="module")
def encoder(config):
    torch.manual_seed(0)
    return shaken(Encoder(config))


@pytest.fixture(scope="module")
def volume():
    noise = torch.randn(2, 1, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    return noise * 50 + 100


@torch.no_grad()
def test_transformers_reads_what_we_write_and_we_read_it_back(encoder, config, volume, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    predictor = Predictor(PredictorConfig(width=24, depth=2, heads=2), config, mask_tokens=2)
    write(encoder, tmp_path / "theirs", shaken(predictor))
    model, told = transformers.VJEPA2Model.from_pretrained(
        tmp_path / "theirs", output_loading_info=True
    )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    model.eval()
    tokens = encoder(volume)
    order = torch.rand(2, 8, generator=torch.Generator().manual_seed(2)).argsort(dim=1)
    masks = Masks(order[:, :3], order[:, 3:7])
    theirs = model(
        volume.transpose(1, 2), context_mask=[masks.context_BK], target_mask=[masks.target_BM]
    )
    assert (theirs.last_hidden_state - tokens).abs().max() < TOLERANCE
    context = tokens.gather(1, masks.context_BK.unsqueeze(-1).expand(-1, -1, 48))
    wanted = predictor(context, masks, 1)  # transformers always takes mask token 1
    got = theirs.predictor_output.last_hidden_state
    assert (got - wanted).abs().max() < TOLERANCE

    back, report = read_encoder(tmp_path / "theirs")  # its config.json says what was folded in
    assert (back(volume) - tokens).abs().max() < TOLERANCE
    assert "114.5" not in str(report)
    assert report.share == 1.0
    assert report.unexpected == []
    again, _ = read_predictor(tmp_path / "theirs", back.config)
    assert torch.equal(again(context, masks, 1), wanted)


@torch.no_grad()
def test_a_transformers_model_of_its_own_becomes_an_encoder(volume, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    theirs = shaken(
        transformers.VJEPA2Model(
            transformers.VJEPA2Config(
                crop_size=32, patch_size=16, frames_per_clip=4, tubelet_size=2, in_chans=3,
                hidden_size=48, num_attention_heads=2, num_hidden_layers=2, pred_hidden_size=24,
                pred_num_attention_heads=2, pred_num_hidden_layers=1,
            )
        )
    )  # fmt: skip
    theirs.save_pretrained(tmp_path / "theirs")
    raw = ConversionConfig(input_mean=0.0, input_std=1.0)
    encoder, report = read_encoder(tmp_path / "theirs", raw)
    colour = (volume.expand(-1, 3, -1, -1, -1) - 100) / 50
    wanted = theirs.encoder(colour.transpose(1, 2)).last_hidden_state
    assert (encoder(colour) - wanted).abs().max() < TOLERANCE
    assert report.layout == "transformers (VJEPA2Model)"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"input_shape": (4, 32, 48)}, r"square planes and patches only"),
        ({"rotary": "interleaved"}, r"rotary positions of the form vjepa2"),
        ({"positions": "learned"}, r"rotary positions of the form vjepa2"),
    ],
)
def test_what_transformers_cannot_express_is_refused(settings, text, config, tmp_path):
    with pytest.raises(WeightsError, match=text):
        write_encoder(Encoder(replace(config, **settings)), tmp_path / "x", "transformers")
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"positions": "learned"}])
def test_onnxruntime_gives_the_tokens_for_any_batch(settings, config, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    encoder = shaken(Encoder(replace(config, **settings)))
    said = write_encoder(encoder, tmp_path / "encoder.onnx", "onnx")
    assert "max |diff|" in said
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "encoder.onnx"))
    for batch in (1, 5):
        generator = torch.Generator().manual_seed(batch)
        volume = torch.randn(batch, 1, 4, 32, 32, generator=generator) * 50 + 100
        tokens = torch.from_numpy(session.run(None, {"volume": volume.numpy()})[0])
        assert (tokens - encoder(volume)).abs().max() < TOLERANCE


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # of torch.export.load
@torch.no_grad()
def test_a_torch_export_program_gives_the_tokens_for_any_batch(encoder, volume, tmp_path, capsys):
    encoder.save_pretrained(tmp_path / "encoder")
    target = str(tmp_path / "encoder.pt2")
    assert main(["convert", str(tmp_path / "encoder"), target, "--to", "torch-export"]) == 0
    assert "max |diff|" in capsys.readouterr().out
    program = torch.export.load(target).module()
    for some in (volume, volume[:1], volume.repeat(3, 1, 1, 1, 1)):
        assert (program(some) - encoder(some)).abs().max() < TOLERANCE


def test_lengths_cannot_be_exported_and_that_is_said(config, tmp_path):
    encoder = Encoder(replace(config, position_unit="length"))
    with pytest.raises(WeightsError, match=r'position_unit "length" wants the spacing'):
        write_encoder(encoder, tmp_path / "a.pt2", "torch-export")
    with pytest.raises(WeightsError, match=r"form 'tflite' must be one of"):
        write_encoder(encoder, tmp_path / "a", "tflite")
