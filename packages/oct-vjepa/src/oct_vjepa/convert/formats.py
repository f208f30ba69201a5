"""Reading weights in any layout that we know, and writing them in any form that others take."""

from dataclasses import replace
from pathlib import Path

from oct_vjepa.convert import predecessor, transformers, vjepa2
from oct_vjepa.convert.export import export_onnx, export_program
from oct_vjepa.convert.files import read_checkpoint
from oct_vjepa.convert.layout import ConversionConfig, Foreign, build
from oct_vjepa.convert.report import LoadReport
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.weights import WeightsError, local_copy

FORMS = ("encoder", "transformers", "onnx", "torch-export")
"""What `write_encoder` can write: two kinds of folders, and two kinds of files."""


def read_encoder(
    source: str | Path, config: ConversionConfig | None = None
) -> tuple[Encoder, LoadReport]:
    """An encoder from weights in any layout we know, and what became of every tensor.

    Args:
        source: a file or folder, local or a URL (needs `oct-vjepa[urls]`).
        config: what to take and what to change; None: everything as in the file.

    Raises:
        WeightsError: unreadable, of no known layout, or less than 95 % of the encoder found.
    """
    config = ConversionConfig() if config is None else config
    with local_copy(source) as path:
        try:
            foreign = _read(path, config)
            try:
                wanted = replace(foreign.config, **config.settings())
            except ValueError as error:
                raise WeightsError(f"the wanted encoder is not possible: {error}") from error
            return build(foreign, wanted, str(source))
        except WeightsError as error:
            named = str(source) in str(error) or str(path) in str(error)
            raise error if named else WeightsError(f"{source}: {error}") from error


def write_encoder(encoder: Encoder, target: str | Path, form: str = "encoder") -> str:
    """Write `encoder` for us, for transformers, or for tools that run graphs; says what it did.

    Raises:
        WeightsError: the form is unknown or cannot express this encoder.
    """
    if form == "encoder":
        encoder.save_pretrained(target)
        return f"{target}: an encoder for oct-vjepa"
    if form == "transformers":
        transformers.write(encoder, Path(target))
        return f"{target}: a VJEPA2Model for raw voxels; call it with skip_predictor=True"
    if form == "onnx":
        return export_onnx(encoder, Path(target))
    if form == "torch-export":
        return export_program(encoder, Path(target))
    raise WeightsError(f"form {form!r} must be one of {FORMS}")


def _read(path: Path, config: ConversionConfig) -> Foreign:
    if path.is_dir():
        layout = config.layout
        if layout == "auto":
            layout = "transformers" if transformers.matches(path) else "encoder"
        if layout == "transformers":
            return transformers.read(path, config)
        if layout == "encoder":
            encoder = Encoder.from_pretrained(path)
            return Foreign("encoder", encoder.config, encoder.state_dict(), [], {}, [])
        raise WeightsError(f"layout {layout!r} is a file, not a folder")
    checkpoint = read_checkpoint(path)
    layouts = {"predecessor": predecessor, "vjepa2": vjepa2}
    if config.layout in layouts:
        return layouts[config.layout].read(checkpoint, config)
    if config.layout != "auto":
        raise WeightsError(f"layout {config.layout!r} is a folder, not a file")
    for module in (predecessor, vjepa2):  # the first has pos_embed; a state alone could be either
        if module.matches(checkpoint):
            return module.read(checkpoint, config)
    raise WeightsError(
        f"no layout we know; its first names are {sorted(checkpoint)[:6]}: set the layout if you "
        "know it"
    )
