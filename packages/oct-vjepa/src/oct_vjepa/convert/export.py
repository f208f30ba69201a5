"""An encoder as a graph that runs without this library: ONNX, or a `torch.export` program."""

import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.weights import WeightsError

OPSET = 18  # what torch's exporter writes without converting


def export_program(encoder: Encoder, path: Path) -> str:
    """Write the tokens of volumes of `input_shape`, any batch size, as a .pt2 file.

    Read it with `torch.export.load(path).module()`.

    Raises:
        WeightsError: the encoder needs the spacing of each volume, which a graph has no input for.
    """
    program = trace(encoder)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, path)
    volume = example(encoder, batch=3)
    difference = _difference(program.module()(volume), encoder(volume))
    return f"{path}: a torch.export program, max |diff| {difference:.1e}"


def export_onnx(encoder: Encoder, path: Path) -> str:
    """Write the tokens of volumes of `input_shape`, any batch size, as one .onnx file.

    The input is called "volume" (float32, raw voxels), the output "tokens". If onnxruntime is
    installed, it runs the file and the largest difference is told.

    Raises:
        WeightsError: onnx or onnxscript is missing, or the encoder needs spacings.
    """
    for package in ("onnx", "onnxscript"):
        if find_spec(package) is None:
            raise WeightsError(f"ONNX needs {package}: install oct-vjepa[onnx]")
    program = trace(encoder)
    path.parent.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it tells every optional converter that is not installed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own dependencies
            written = torch.onnx.export(
                program,
                (example(encoder, batch=2),),
                input_names=["volume"],
                output_names=["tokens"],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    if written is None:
        raise WeightsError(f"{path}: torch wrote no ONNX program")
    large = sum(weight.numel() for weight in encoder.parameters()) * 4 > 2**31 - 2**20
    written.save(str(path), external_data=large)  # protobuf holds 2 GiB at most
    return f"{path}: ONNX, {check_onnx(encoder, path)}"


@torch.no_grad()
def check_onnx(encoder: Encoder, path: Path) -> str:
    """What onnxruntime makes of the file, beside what the encoder says."""
    if find_spec("onnxruntime") is None:
        return "not checked: onnxruntime is not installed"
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    volume = example(encoder, batch=3)
    tokens = torch.from_numpy(session.run(None, {"volume": volume.numpy()})[0])
    return f"max |diff| {_difference(tokens, encoder(volume)):.1e} in onnxruntime"


def trace(encoder: Encoder) -> torch.export.ExportedProgram:
    """The graph of an encoder for volumes of `input_shape` and any batch size.

    Raises:
        WeightsError: positions are lengths.
    """
    if encoder.config.position_unit == "length":
        raise WeightsError(
            'an encoder with position_unit "length" wants the spacing of each volume; a graph has '
            "no input for it yet: use the encoder itself"
        )
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        return torch.export.export(
            encoder.eval(), (example(encoder, batch=2),), dynamic_shapes={"x_BCZYX": {0: batch}}
        )


def example(encoder: Encoder, *, batch: int) -> Tensor:
    """Volumes of the right shape around the mean that the encoder expects, always the same."""
    config = encoder.config
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(batch, config.channels, *config.input_shape, generator=generator)
    return noise * config.input_std + config.input_mean


@torch.no_grad()
def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())
