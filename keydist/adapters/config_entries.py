"""Lists of mappings in the configuration: each entry is parsed strictly, and its number and member are named.

The message of each `ConfigError` continues the field's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from keydist.adapters.config_layers import nearest
from keydist.adapters.config_schema import kind_of
from keydist.adapters.config_yaml import printable
from keydist.errors import ConfigError

T = TypeVar("T")


def entries_of(
    value: object, *, most: int, parse: Callable[[Mapping[str, object]], T], same: Callable[[T], object], again: str
) -> tuple[T, ...]:
    """Return the parsed entries of a list. Raises `ConfigError`, counting from 1.

    No two may be the `same`; `again` says what such a one does.
    """
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        found = "a list with something else in it" if isinstance(value, list) else kind_of(value)
        raise ConfigError("is not a list of mappings", expected="a list of mappings, in the file", found=found)
    if len(value) > most:
        raise ConfigError("has too many entries", expected=f"at most {most}", found=str(len(value)))
    entries: list[T] = []
    for number, mapping in enumerate(value, start=1):
        try:
            entry = parse(mapping)
        except ConfigError as exc:
            message = f"entry {number}: {exc.message}"
            raise ConfigError(message, expected=exc.expected, found=exc.found, fix=exc.fix) from None
        if same(entry) in [same(other) for other in entries]:
            raise ConfigError(f"entry {number} {again}", fix="keep one of the two")
        entries.append(entry)
    return tuple(entries)


def members_of(entry: Mapping[str, object], known: Mapping[str, Callable[[object], object]]) -> dict[str, Any]:
    """Return the parsed members of a mapping. Raises `ConfigError`, naming the member."""
    parsed: dict[str, Any] = {}
    for name, value in entry.items():
        if name not in known:
            near = nearest(name, known, cutoff=0.6)
            fix = f"did you mean {near}?" if near else f"the keys known here are {', '.join(known)}"
            raise ConfigError(f"unknown key {printable(name)}", fix=fix)
        if value is None:
            raise ConfigError(f"{name} is empty", expected="a value", fix="give it a value, or remove it")
        try:
            parsed[name] = known[name](value)
        except ConfigError as exc:
            message = f"{name} {exc.message}"
            raise ConfigError(message, expected=exc.expected, found=exc.found, fix=exc.fix) from None
    return parsed
