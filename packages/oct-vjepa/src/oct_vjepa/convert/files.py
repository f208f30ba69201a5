"""Read checkpoints of others without running a line of what is in them."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from oct_vjepa.model.weights import CONFIG_NAME, WeightsError

OMEGACONF = (
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.Metadata",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Node",
    *(
        f"omegaconf.nodes.{kind}Node"
        for kind in ("Any", "String", "Integer", "Float", "Boolean", "Path", "Bytes", "Enum")
    ),
    "typing.Any",
)
"""What a settings tree of OmegaConf is pickled from; each becomes a `_Record`."""
NAMESPACE = "argparse.Namespace"
"""The arguments of MAE's programs, which RETFound keeps in its files; likewise."""
PLAIN = (list, dict, tuple, set, int, float, bool, str)


class _Record:
    """Stands in for an OmegaConf class: keeps the pickled attributes and does nothing with them."""

    attributes: Mapping[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Tensors, numbers, text and settings of a file that `torch.save` wrote.

    Only tensors, plain containers and OmegaConf trees are let in, the last as inert records that
    are then turned into dicts and lists; so a file can name code, but never have it called.

    Raises:
        WeightsError: no such file, something else inside, or not a dict.
    """
    allowed: list[Any] = [(_Record, name) for name in (*OMEGACONF, NAMESPACE)]
    allowed += [*PLAIN, defaultdict]
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        with torch.serialization.safe_globals(allowed):
            found = plain(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a torn or hostile file fails in any way; all mean the same to us
        reason = " ".join(str(error).split())
        marker = "Unsupported global: GLOBAL "
        if marker in reason:
            name = reason.split(marker, 1)[1].split()[0]
            raise WeightsError(
                f"{path}: refused, it wants to load {name}; only tensors, plain values and "
                "OmegaConf settings are read"
            ) from error
        raise WeightsError(f"{path}: cannot be read as a checkpoint ({reason[:200]})") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: holds a {type(found).__name__}, not a dict of weights")
    return {str(key): value for key, value in found.items()}


def plain(value: Any) -> Any:
    """The same value with every record replaced by the dict, list or scalar it stands for."""
    if isinstance(value, _Record):
        inside = value.attributes
        if "_content" not in inside and "_val" not in inside:
            return plain(inside)
        return plain(inside["_content"] if "_content" in inside else inside["_val"])
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def read_safetensors(paths: Iterable[Path]) -> dict[str, Tensor]:
    """All tensors of some safetensors files.

    Raises:
        WeightsError: a file cannot be read, or there is none.
    """
    state: dict[str, Tensor] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                state |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{path}: cannot be read as safetensors ({error})") from error
    return state


def read_document(folder: Path) -> dict[str, Any]:
    """The config.json of a folder.

    Raises:
        WeightsError: no such file, or not a JSON object.
    """
    path = folder / CONFIG_NAME
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from error
    if not isinstance(document, dict):
        raise WeightsError(f"{path}: not a JSON object")
    return document


def tensors_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The entries that are tensors."""
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
