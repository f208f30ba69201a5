"""A folder with config.json and model.safetensors: written whole, read strictly, never a pickle."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from oct_vjepa.saving import flush, naming

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
FORMAT_VERSION = 1


class WeightsError(Exception):
    """Weights that cannot be read or do not fit; the text is one line that names the file."""


def is_url(place: str | Path) -> bool:
    """Whether `place` is a URL such as s3://bucket/encoder, and not a local path."""
    return isinstance(place, str) and "://" in place


class _Undrawn(TorchFunctionMode):
    """Leaves out what changes a tensor in place, as the draws of torch.nn.init do."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given, name = kwargs or {}, func.__name__
        if name.endswith("_") and not name.endswith("__") and name != "requires_grad_":
            return (*args, *given.values())[0]
        return func(*args, **given)


@contextmanager
def without_numbers() -> Iterator[None]:
    """Modules that are made inside have shapes and no numbers: the device "meta", nothing drawn.

    torch would draw on "meta" too, in Python, and imports its compiler for it, which takes seconds.
    """
    with torch.device("meta"), _Undrawn():
        yield


@contextmanager
def local_copy(place: str | Path) -> Iterator[Path]:
    """A local path to a file or folder; what a URL names is copied here for as long as it is used.

    Raises:
        WeightsError: fsspec or its part for this kind of URL is missing, or nothing is there.
    """
    if not is_url(place):
        yield Path(place)
        return
    system, path = _open_url(str(place))
    with tempfile.TemporaryDirectory(prefix="oct-vjepa-") as scratch:
        copy = Path(scratch) / (path.rstrip("/").rpartition("/")[2] or "weights")
        try:
            if system.isdir(path):
                copy.mkdir()
                for name in system.ls(path, detail=False):
                    if str(name).endswith((".json", ".safetensors")):
                        system.get_file(name, str(copy / str(name).rpartition("/")[2]))
            else:
                system.get_file(path, str(copy))
        except Exception as error:  # every filesystem has errors of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise WeightsError(f"{place}: cannot be fetched ({reason[:200]})") from error
        try:
            yield copy
        except WeightsError as error:  # the user knows the URL, not where its copy lies
            raise WeightsError(str(error).replace(str(copy), str(place))) from error


def _open_url(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise WeightsError(f"{url}: reading URLs needs fsspec: install oct-vjepa[urls]") from error
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise WeightsError(f"{url}: {error}") from error
    return system, path


def write_weights(folder: str | Path, kind: str, config: dict[str, Any], module: nn.Module) -> None:
    """Write `config` and the state of `module` to `folder`.

    A new folder appears whole or not at all. In an existing folder the two files are replaced
    one by one; the weights carry a fingerprint of their configuration, and a mixed pair is refused.

    Args:
        folder: where to write, a path or a URL; its parents are made.
        kind: what the weights are, such as "encoder".
        config: JSON values that rebuild the module.
        module: whose parameters and buffers to write.

    Raises:
        WeightsError: `folder` is a file.
        OSError: the disk does not take them; it names the folder.
    """
    if is_url(folder):
        _upload(str(folder), kind, config, module)
        return
    folder = Path(folder).absolute()
    if folder.exists() and not folder.is_dir():
        raise WeightsError(f"{folder}: is a file; name a folder to save to")
    document = {"kind": kind, "format_version": FORMAT_VERSION, kind: config}
    text = json.dumps(document, indent=2) + "\n"
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    staging = folder.with_name(f".{folder.name}-{uuid4().hex}")
    staging.mkdir(parents=True)
    try:
        with naming(folder):
            save_file(state, staging / WEIGHTS_NAME, metadata={"config": _fingerprint(text)})
            (staging / CONFIG_NAME).write_text(text, encoding="utf-8")
            for name in (WEIGHTS_NAME, CONFIG_NAME):
                flush(staging / name)
        if folder.exists():
            for name in (WEIGHTS_NAME, CONFIG_NAME):
                os.replace(staging / name, folder / name)
        else:
            os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _upload(url: str, kind: str, config: dict[str, Any], module: nn.Module) -> None:
    system, path = _open_url(url)
    with tempfile.TemporaryDirectory(prefix="oct-vjepa-") as scratch:
        staged = Path(scratch) / "staged"
        write_weights(staged, kind, config, module)
        try:
            system.makedirs(path, exist_ok=True)
            for name in (WEIGHTS_NAME, CONFIG_NAME):  # the configuration last: it makes a folder
                system.put_file(str(staged / name), f"{path.rstrip('/')}/{name}")
        except Exception as error:  # every filesystem has errors of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise WeightsError(f"{url}: cannot be written ({reason[:200]})") from error


def read_config(folder: str | Path, kind: str) -> dict[str, Any]:
    """The configuration in `folder`, checked for its kind and format version.

    Raises:
        WeightsError: no such file, not JSON, another kind, or a newer format.
    """
    path = Path(folder) / CONFIG_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror}); is it a saved {kind}?"
        ) from error
    try:
        document = json.loads(text)
    except ValueError as error:
        raise WeightsError(f"{path}: not JSON ({error})") from error
    if not isinstance(document, dict) or not isinstance(document.get(kind), dict):
        raise WeightsError(
            f'{path}: has no section "{kind}", so it is not a saved {kind}{_cure(document, path)}'
        )
    version = document.get("format_version")
    if version != FORMAT_VERSION:
        raise WeightsError(
            f"{path}: format_version is {version!r}, this oct-vjepa reads {FORMAT_VERSION}; "
            "upgrade oct-vjepa if the file is newer"
        )
    return document[kind]


def _cure(document: Any, path: Path) -> str:
    """How to get at weights of transformers; empty for other files."""
    if not isinstance(document, dict) or "model_type" not in document:
        return ""
    return f"; for weights of transformers run oct-vjepa convert {path.parent} NEW_FOLDER first"


def load_weights(module: nn.Module, folder: str | Path) -> None:
    """Give `module` the weights in `folder`, on the CPU; every key and shape must agree.

    What the module held is not read: it may have been made on the device "meta", without numbers.

    Raises:
        WeightsError: an unreadable file, missing or unexpected keys, other shapes, or weights that
            were not written together with the configuration beside them.
    """
    path = Path(folder) / WEIGHTS_NAME
    state, fingerprint = _read_tensors(path)
    wanted = module.state_dict()
    _check_keys(path, state, wanted)
    text = (path.parent / CONFIG_NAME).read_text(encoding="utf-8")
    if fingerprint is not None and fingerprint != _fingerprint(text):
        raise WeightsError(
            f"{path}: was not written together with {CONFIG_NAME} beside it; one of the two was "
            "edited or a save was cut short: save both again"
        )
    state = {name: value.to(wanted[name].dtype, copy=True) for name, value in state.items()}
    module.load_state_dict(state, assign=True)


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = file.keys(), file.metadata() or {}
            return {name: file.get_tensor(name) for name in names}, metadata.get("config")
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors ({error})") from error


def _check_keys(path: Path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    problems = []
    if missing := sorted(wanted.keys() - found.keys()):
        problems.append(f"missing {missing}")
    if unexpected := sorted(found.keys() - wanted.keys()):
        problems.append(f"unexpected {unexpected}")
    for name in sorted(wanted.keys() & found.keys()):
        if wanted[name].shape != found[name].shape:
            shapes = f"{tuple(found[name].shape)} in the file, {tuple(wanted[name].shape)} wanted"
            problems.append(f"{name} is {shapes}")
    if problems:
        raise WeightsError(f"{path}: does not fit its {CONFIG_NAME}: {'; '.join(problems)}")


def _fingerprint(text: str) -> str:
    """Digest of the values in a JSON text; its layout does not matter."""
    return hashlib.sha256(json.dumps(json.loads(text), sort_keys=True).encode()).hexdigest()


def weights_fingerprint(encoder: nn.Module) -> str:
    """16 hex characters that stand for the configuration and every weight of an encoder."""
    config: Any = encoder.config
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
