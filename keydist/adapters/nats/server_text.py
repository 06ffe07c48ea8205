"""A nats-server configuration as text: mappings, lists and scalars, and the reason for a line as its comment.

All text is quoted, so that nothing in it is a variable, an include or a comment. What nats-server could read in
another way than it was meant is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from keydist.errors import ConfigError

_STEP: Final = "  "
_WIDE: Final = 116


class Because(NamedTuple):
    """A value of a configuration, and why it stands there."""

    value: object
    why: str


class Include(NamedTuple):
    """A file whose members belong here: its path, from the configuration's directory. For a secret."""

    path: str


def render(tree: Mapping[str, object]) -> str:
    """Return a configuration as text. Raises `ConfigError` for text with control characters."""
    return "\n".join(_members(tree, "")) + "\n"


def _members(tree: Mapping[str, object], indent: str) -> list[str]:
    return [
        line
        for name, value in tree.items()
        for line in ([_included(value, indent)] if isinstance(value, Include) else _lines(value, indent, f"{name}: "))
    ]


def _included(file: Include, indent: str) -> str:
    return f"{indent}include {_scalar(file.path)}"


def _lines(value: object, indent: str, head: str) -> list[str]:
    """Return the lines of one value behind `head`; the reason of what needs several stands above it."""
    value, why = (value.value, value.why) if isinstance(value, Because) else (value, "")
    above = [f"{indent}# {line}" for line in why.splitlines()]
    short = _on_one_line(value)
    if short is not None and len(f"{indent}{head}{short}") <= _WIDE:
        return [*above, f"{indent}{head}{short}"]
    if isinstance(value, Mapping):
        inside, ends = _members(value, indent + _STEP), "{}"
    elif isinstance(value, Sequence) and not isinstance(value, str):
        inside = [line for item in value for line in _lines(item, indent + _STEP, "")]
        ends = "[]"
    else:
        return [f"{indent}{head}{_scalar(value)}" + (f"  # {why}" if why else "")]
    return [*above, f"{indent}{head}{ends[0]}", *inside, f"{indent}{ends[1]}"]


def _on_one_line(value: object) -> str | None:
    """Return a mapping or a list in one line; None for a scalar, and for what holds reasons or many members."""
    if isinstance(value, Mapping):
        parts = [(f"{name}: ", item) for name, item in value.items()]
        begin, end = "{ ", " }"
    elif isinstance(value, Sequence) and not isinstance(value, str):
        parts, (begin, end) = [("", item) for item in value], "[]"
    else:
        return None
    shown = []
    for head, item in parts:
        inner = None if isinstance(item, Because | Include) else _on_one_line(item) or _leaf(item)
        if inner is None:
            return None
        shown.append(head + inner)
    return begin + ", ".join(shown) + end if shown else begin.strip() + end.strip()


def _leaf(value: object) -> str | None:
    return None if isinstance(value, Mapping | list | tuple) else _scalar(value)


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if not text.isprintable():
        raise ConfigError(
            "that cannot stand in a nats-server configuration",
            expected="printable text",
            found=ascii(text)[:80],
            fix="name it without control characters",
        )
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
