"""What may be set: the names, types and texts of a schema, and the choices of each group.

The texts are the literals under the fields of the libraries' own dataclasses, read from their
sources: there is no second description that could differ.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import takewhile
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf


class Setting(NamedTuple):
    """One place of a schema."""

    key: str  # dotted
    type: Any
    section: bool  # whether it holds settings of its own
    open: bool  # whether any key may stand below it

    @property
    def entry(self) -> type | None:
        """What each entry of a dictionary of sections is; None of any other setting."""
        kinds = get_args(self.type) if get_origin(self.type) is dict else ()
        return kinds[1] if len(kinds) > 1 and is_dataclass(kinds[1]) else None


class Choice(NamedTuple):
    """One choice of a group: a file in configs/, or what `offer` has named."""

    name: str
    text: str  # of a file the first sentence of the comment on top


def walk(schema: type, prefix: str = "") -> Iterator[Setting]:
    """Every setting of a dataclass and of those in it; of a type with subclasses, theirs too."""
    hints = get_type_hints(schema)
    for field in fields(schema):
        key = f"{prefix}{field.name}"
        kind = _without_none(hints[field.name])
        section = isinstance(kind, type) and is_dataclass(kind)
        yield Setting(key, kind, section, get_origin(kind) is dict or kind is Any)
        if section:
            seen = set[str]()
            for one in (kind, *_below(kind)):
                for setting in walk(one, f"{key}."):
                    if setting.key not in seen:
                        seen.add(setting.key)
                        yield setting


def field_texts(schema: type) -> dict[str, str]:
    """Name of each field, inherited ones too, to the literal under it as one paragraph."""
    texts: dict[str, str] = {}
    for kind in reversed(schema.__mro__):
        if not is_dataclass(kind):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(tree, ast.ClassDef)
        for node, below in zip(tree.body, [*tree.body[1:], None], strict=True):
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                texts[node.target.id] = " ".join(str(below.value.value).split())
    return texts


def read_groups(configs: Path, name: str) -> dict[str, str]:
    """Group to the choice that the primary file `name` makes; "" for none."""
    tree = OmegaConf.to_container(OmegaConf.load(configs / f"{name}.yaml"))
    assert isinstance(tree, dict)
    found = {}
    for entry in tree["defaults"]:
        if isinstance(entry, dict):
            ((group, choice),) = entry.items()
            if not str(group).startswith("override "):
                found[str(group)] = choice or ""
    return found


_offered: dict[str, dict[str, Choice]] = {}


def offer(group: str, name: str, node: object, text: str, *, package: str | None = None) -> None:
    """Let `group=name` on the command line take settings from an object instead of a file.

    Args:
        group: of settings.
        name: of the choice; a file in configs/ of this name is taken in its place.
        node: a dataclass, or a tree that may have a list of defaults.
        text: what it is for; the first sentence is shown by `--help`.
        package: where the settings belong; None: to the setting named like the group.
    """
    ConfigStore.instance().store(group=group, name=name, node=node, package=package)
    _offered.setdefault(group, {})[name] = Choice(name, _first_sentence(text))


def read_choices(configs: Path, group: str) -> list[Choice]:
    """What a group offers: what has been named in its order, then files by name."""
    files = [
        Choice(path.stem, _first_comment(path)) for path in sorted((configs / group).glob("*"))
    ]
    return [*_offered.get(group, {}).values(), *files]


def _first_comment(path: Path) -> str:
    """The first sentence of the comment on top, or all of it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in takewhile(_is_comment, lines))
    return _first_sentence(re.sub(r"@package \S+ ?", "", comment))


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[^.][.?]) ", text)[0].rstrip(":")


def _is_comment(line: str) -> bool:
    return line.startswith("#")


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        return next(one for one in get_args(kind) if one is not type(None))
    return kind


def _below(kind: type) -> Iterator[type]:
    below: list[type] = kind.__subclasses__()
    for one in below:
        # slots=True makes a class anew; the first try stays behind among the subclasses.
        if "__slots__" in vars(one) and is_dataclass(one):
            yield one
        yield from _below(one)
