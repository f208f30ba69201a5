"""The page that `--help` prints: groups and choices, then each setting with value and text."""

import textwrap
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from oct_launch.settings import field_texts, read_choices, read_groups

WIDTH = 100


def write_manual(about: str, settings: DictConfig, configs: Path, name: str) -> str:
    """Text of the page.

    Args:
        about: what the app does, with examples.
        settings: all of them, as the command line has them.
        configs: folder of the groups.
        name: of the app.
    """
    groups = "Groups of settings; group=name takes one of these, or a file of yours"
    lines = [about.strip(), "", groups]
    for group, chosen in read_groups(configs, name).items():
        lines += ["", f"  {group}" + (f"  (unless told otherwise: {chosen})" if chosen else "")]
        for choice in read_choices(configs, group):
            lines += _paragraph(choice.text, f"    {choice.name:<28} ", " " * 33)
    lines += ["", "Settings and their values; key=value sets one, -m key=a,b tries several", ""]
    lines += _describe(settings, "")
    return "\n".join(lines)


def _describe(node: DictConfig, prefix: str) -> Iterator[str]:
    """Lines of a section: its own settings first, then the sections in it."""
    kind = OmegaConf.get_type(node)
    texts = field_texts(kind) if isinstance(kind, type) and is_dataclass(kind) else {}
    sections = []
    for name in map(str, node):
        if not OmegaConf.is_missing(node, name) and is_dataclass(OmegaConf.get_type(node, name)):
            sections.append(name)
        else:
            yield f"  {prefix}{name} = {_value(node, name)}"
            yield from _paragraph(texts.get(name, ""), " " * 6, " " * 6)
            yield from _describe_entries(node, name)
    for name in sections:
        section = node[name]
        about = " ".join((OmegaConf.get_type(section).__doc__ or "").split("\n\n")[0].split())
        yield ""
        yield from _paragraph(texts.get(name, about), f"{prefix}{name}: ", "  ")
        yield from _describe(section, f"{prefix}{name}.")


def _describe_entries(node: DictConfig, name: str) -> Iterator[str]:
    """What may stand in each entry of a list of sections."""
    value = None if OmegaConf.is_missing(node, name) else node[name]
    kind = OmegaConf.get_type(value[0]) if isinstance(value, ListConfig) and len(value) else None
    if kind is not None and is_dataclass(kind):
        for field, text in field_texts(kind).items():
            yield from _paragraph(text, f"      {field}: ", " " * 10)


def _value(node: DictConfig, name: str) -> str:
    if OmegaConf.is_missing(node, name):
        return "???, must be given"
    value = node[name]
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    return "null" if value is None else str(value)


def _paragraph(text: str, first: str, rest: str) -> list[str]:
    if not text:
        return [first.rstrip()] if first.strip() else []
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )
