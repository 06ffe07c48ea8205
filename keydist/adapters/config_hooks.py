"""What runs when the key changes: the `hooks:` of the configuration, parsed strictly, and their JSON Schema.

A hook runs a program (`run`, no shell) or has the service manager signal a unit (`signal` and `unit`). The message
of each `ConfigError` continues the field's name. Loaded only where the configuration has hooks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple

from keydist.adapters.config_entries import entries_of, members_of
from keydist.adapters.config_schema import MAX_TEXT, duration_shape, kind_of, shown, text_of
from keydist.adapters.duration import format_duration
from keydist.errors import ConfigError

Event = Literal["key", "jwks"]

MAX_HOOKS: Final = 32
MAX_ARGV: Final = 64
MAX_RETRIES: Final = 10
EVENTS: Final = ("key", "jwks")
SIGNALS: Final = ("HUP", "USR1", "USR2", "TERM")

_UNIT: Final = r"(?=.{1,256}$)[A-Za-z0-9:_.\\@-]+\.service"
_TIMEOUT: Final = duration_shape(1, 3_600)
_DEFAULT_TIMEOUT: Final = 30
_DEFAULT_RETRIES: Final = 3


class Hook(NamedTuple):
    """What to do when the active signing key (`key`) or the JWK Set (`jwks`) changed: `run`, or `signal` a `unit`.

    `timeout` is in seconds, for one attempt; `retries` are attempts after the first.
    """

    on: Event
    run: tuple[str, ...] = ()
    signal: str | None = None
    unit: str | None = None
    timeout: int = _DEFAULT_TIMEOUT
    retries: int = _DEFAULT_RETRIES

    def action(self) -> tuple[object, ...]:
        """Return what makes this hook another one: not how patient it is."""
        return (self.on, list(self.run), self.signal, self.unit)

    def as_mapping(self) -> dict[str, object]:
        """Return the hook as the configuration file would have it."""
        does: dict[str, object] = {"run": list(self.run)} if self.run else {"signal": self.signal, "unit": self.unit}
        return {"on": self.on, **does, "timeout": format_duration(self.timeout), "retries": self.retries}


def parse_hooks(value: object) -> tuple[Hook, ...]:
    """Return the hooks of a list of mappings. Raises `ConfigError`, counting entries from 1."""
    return entries_of(value, most=MAX_HOOKS, parse=_parse_hook, same=Hook.action, again="does what an earlier one does")


def _parse_hook(entry: Mapping[str, object]) -> Hook:
    found = members_of(entry, _MEMBERS)
    if ("run" in found) == ("signal" in found or "unit" in found):
        raise ConfigError("not one thing to do", expected="either run, or signal and unit")
    if "run" not in found and not {"signal", "unit"} <= found.keys():
        raise ConfigError("signal and unit go together", fix="name both")
    return Hook(**{"on": "key", **found})


def _one_of(*names: str) -> Callable[[object], str]:
    expected = f"{', '.join(names[:-1])} or {names[-1]}"

    def parse(value: object) -> str:
        text = text_of(value, expected)
        if text not in names:
            raise ConfigError("is not one of the known ones", expected=expected, found=shown(text))
        return text

    return parse


def _argv(value: object) -> tuple[str, ...]:
    expected = f"a list of 1 to {MAX_ARGV} texts: the absolute path of a program, then its arguments"
    if not isinstance(value, list) or not 0 < len(value) <= MAX_ARGV:
        found = f"a list of {len(value)}" if isinstance(value, list) else kind_of(value)
        fix = "write the path and each argument as an entry of a list; no shell reads them"
        raise ConfigError("is not a list of arguments", expected=expected, found=found, fix=fix)
    argv = tuple(text_of(part, expected) for part in value)
    for part in argv:
        # What a process cannot be given: NULs, and halves of surrogate pairs from escapes.
        if len(part) > MAX_TEXT or "\0" in part or re.search("[\ud800-\udfff]", part):
            raise ConfigError("has an impossible argument", expected=expected, found=shown(part))
    if not argv[0].startswith("/") or argv[0].endswith("/"):
        fix = "name the program by its absolute path: PATH is not searched"
        raise ConfigError("does not start with a program", expected=expected, found=shown(argv[0]), fix=fix)
    return argv


def _unit(value: object) -> str:
    expected = "the name of a unit that ends in .service"
    text = text_of(value, expected)
    if not re.fullmatch(_UNIT, text) or text.startswith("-"):
        raise ConfigError("is not the name of a service", expected=expected, found=shown(text))
    return text


def _retries(value: object) -> int:
    expected = f"0 to {MAX_RETRIES}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError("is not an integer", expected=expected, found=kind_of(value))
    if not 0 <= value <= MAX_RETRIES:
        raise ConfigError("is out of range", expected=expected, found=str(value))
    return value


_MEMBERS: Final[Mapping[str, Callable[[object], object]]] = {
    "on": _one_of(*EVENTS),
    "run": _argv,
    "signal": _one_of(*SIGNALS),
    "unit": _unit,
    "timeout": _TIMEOUT.parse,
    "retries": _retries,
}


def hook_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of one hook."""
    argument = {"type": "string", "maxLength": MAX_TEXT}
    properties: dict[str, dict[str, Any]] = {
        "on": {"type": "string", "enum": list(EVENTS), "default": "key"},
        "run": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_ARGV,
            "prefixItems": [{**argument, "pattern": "^/[^\\0]*[^\\0/]$"}],
            "items": {**argument, "pattern": "^[^\\0]*$"},
        },
        "signal": {"type": "string", "enum": list(SIGNALS)},
        "unit": {"type": "string", "pattern": f"^(?!-){_UNIT}$"},
        "timeout": {**_TIMEOUT.schema, "default": _DEFAULT_TIMEOUT},
        "retries": {"type": "integer", "minimum": 0, "maximum": MAX_RETRIES, "default": _DEFAULT_RETRIES},
    }
    about = {
        "on": "What changed: the active signing key, or the JWK Set.",
        "run": "A program by its absolute path, and its arguments; no shell reads them.",
        "signal": "What the service manager sends to the main process of unit.",
        "unit": "The service that is signalled.",
        "timeout": "How long one attempt may take.",
        "retries": "How many attempts follow the first, while they fail.",
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: {**member, "description": about[name]} for name, member in properties.items()},
        "oneOf": [{"required": ["run"]}, {"required": ["signal", "unit"]}],
        "dependentRequired": {"signal": ["unit"], "unit": ["signal"]},
    }
