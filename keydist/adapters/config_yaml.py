"""Read one small YAML file strictly: no aliases, tags, merge keys or duplicate keys, and no guessing of types.

The values are built from the parser's events, so that nothing is expanded and no constructor runs. Bare scalars
keep the types of YAML 1.1 (`no` is a boolean; as a key, a name), but numbers in another base, fractions and dates
are refused: each is a surprise where a name was meant. Errors give line and column, and never what stands there.
"""

from __future__ import annotations

import os
import stat
from typing import Any, Final

import yaml

from keydist.errors import ConfigError

MAX_FILE: Final = 64 * 1024
MAX_DEPTH: Final = 16
MAX_NAME: Final = 256
"""The longest name of a key or of a file that an error repeats."""

_MAX_DIGITS: Final = 16
_TRUE: Final = frozenset({"yes", "true", "on"})
_ODD: Final = {"int": "a number in another base", "float": "a fraction", "timestamp": "a date"}


def printable(text: str) -> str:
    """Return a name for an error message: itself where it is short and printable, else escaped and cut."""
    return text if text.isprintable() and 0 < len(text) <= MAX_NAME else ascii(text[:MAX_NAME])


def read_mapping(path: str, *, may_be_missing: bool) -> dict[str, Any] | None:
    """Return the mapping that a file holds, or None for a missing file that may be missing. Raises `ConfigError`."""
    raw = _read(path, may_be_missing=may_be_missing)
    return None if raw is None else _Document(printable(path)).parse(raw)


def _read(path: str, *, may_be_missing: bool) -> bytes | None:
    place = printable(path)
    try:
        # Not to hang on a FIFO, nor to take over a terminal: what it is, is asked of the descriptor.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(f"{place} is not a regular file", expected="a file in YAML")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                raw = file.read(MAX_FILE + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as exc:  # ValueError: a name that no file can have
        if may_be_missing and isinstance(exc, FileNotFoundError):
            return None
        found = exc.strerror if isinstance(exc, OSError) and exc.strerror else "no possible name of a file"
        raise ConfigError(
            f"the configuration {place} cannot be read",
            expected="a file in YAML",
            found=found.lower(),
            fix="name another with --config or KEYDIST_CONFIG, or let keydist read this one",
        ) from None
    if len(raw) > MAX_FILE:
        raise ConfigError(f"{place} is too large", expected=f"at most {MAX_FILE} bytes")
    return raw


class _Document:
    """One file's document, on its way from events to values."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.loader: Any = None

    def parse(self, raw: bytes) -> dict[str, Any]:
        """Return the top mapping. Raises `ConfigError`; never from the parser's own error, which quotes the line."""
        try:
            # Built on libyaml where PyYAML has it; what is accepted is the same.
            self.loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(raw.decode("utf-8"))
            value = self._whole()
        except UnicodeDecodeError as exc:
            raise ConfigError(f"{self.place} is not text", expected="UTF-8", found=f"byte {exc.start}") from None
        except yaml.YAMLError as exc:
            mark = getattr(exc, "problem_mark", None)  # none where a character is not allowed at all
            where = f"an error at line {mark.line + 1}, column {mark.column + 1}" if mark else "a control character"
            raise ConfigError(f"{self.place} is not YAML", expected="a mapping in YAML", found=where) from None
        except (ValueError, ArithmeticError):  # the parser in Python, on escapes and versions out of range
            raise ConfigError(f"{self.place} is not YAML", expected="a mapping in YAML") from None
        if not isinstance(value, dict):
            raise ConfigError(f"{self.place} is not a mapping", expected="lines such as cluster: prod-eu1")
        return value

    def _whole(self) -> object:
        self.loader.get_event()  # the start of the stream
        if self.loader.check_event(yaml.StreamEndEvent):
            raise ConfigError(f"{self.place} is empty", expected="lines such as cluster: prod-eu1")
        self.loader.get_event()  # the start of the document
        value = self._value("the document", depth=0)
        self.loader.get_event()  # its end
        if not self.loader.check_event(yaml.StreamEndEvent):
            raise ConfigError(f"{self.place} holds more than one document", expected="one")
        return value

    def _value(self, name: str, *, depth: int) -> object:
        event = self.loader.get_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise self._refused(event, f"{name} is an anchor or an alias", "write the value out where it is meant")
        if event.tag is not None:
            raise self._refused(event, f"{name} has a tag", "leave the tag out; quotes make text")
        if depth > MAX_DEPTH:
            raise self._refused(event, f"{name} is nested too deeply", f"nest at most {MAX_DEPTH} levels")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, name)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(name, depth)
        return self._mapping(name, depth)

    def _list(self, name: str, depth: int) -> list[object]:
        items: list[object] = []
        while not self.loader.check_event(yaml.SequenceEndEvent):
            items.append(self._value(f"{name}[{len(items)}]", depth=depth + 1))
        self.loader.get_event()
        return items

    def _mapping(self, name: str, depth: int) -> dict[str, object]:
        members: dict[str, object] = {}
        while not self.loader.check_event(yaml.MappingEndEvent):
            event = self.loader.peek_event()
            key = self._key(name, depth=depth + 1)
            if not isinstance(key, str):
                raise self._refused(event, f"a key of {name} is not text", "put the key in quotes")
            if key in members:
                raise self._refused(event, f"key {printable(key)} stands twice in {name}", "keep one of the two")
            label = printable(key) if depth == 0 else f"{name}.{printable(key)}"
            members[key] = self._value(label, depth=depth + 1)
        self.loader.get_event()
        return members

    def _key(self, name: str, *, depth: int) -> object:
        event = self.loader.peek_event()
        key = self._value(f"a key of {name}", depth=depth)
        # A bare `on` is a boolean to YAML 1.1, but as a key it can only be meant as the name.
        return event.value if isinstance(key, bool) else key

    def _scalar(self, event: yaml.ScalarEvent, name: str) -> object:
        text: str = event.value
        kind = self.loader.resolve(yaml.ScalarNode, text, event.implicit).rpartition(":")[2]
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() in _TRUE
        if kind == "int" and _is_plain_integer(text):
            return int(text)
        if kind == "merge":
            raise self._refused(event, f"{name} is a merge key", "write the members out where they are meant")
        if kind != "str":
            fix = "put it in quotes if it is text; otherwise write a whole decimal number"
            raise self._refused(event, f"{name} is {_ODD.get(kind, 'a sign')} to YAML", fix)
        return text

    def _refused(self, event: yaml.Event, message: str, fix: str) -> ConfigError:
        mark: Any = event.start_mark
        return ConfigError(f"{self.place}: line {mark.line + 1}, column {mark.column + 1}: {message}", fix=fix)


def _is_plain_integer(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isdigit() and len(digits) <= _MAX_DIGITS and (digits == "0" or digits[0] != "0")
