"""What the agent serves: addresses to listen at, and who may mint at the socket, with the JSON Schema of a rule.

A rule names users and groups of this machine, and what they may mint. A pattern is exact, or ends with one `*`. The
message of each `ConfigError` continues the field's name. Loaded only where the configuration says any of it.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from keydist.adapters.config_entries import entries_of, members_of
from keydist.adapters.config_schema import LISTEN, MAX_PORT, MAX_TEXT, duration_shape, kind_of, shown, text_of
from keydist.adapters.duration import format_duration
from keydist.errors import ConfigError

MAX_RULES: Final = 64
MAX_ITEMS: Final = 64
MAX_PATTERN: Final = 256

_ACCOUNT: Final = r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?"
_PATTERN: Final = r"[^*\0-\x1f\x7f]*\*?"
_LIFETIME: Final = duration_shape(1)
_DEFAULT_LIFETIME: Final = 900


class MintRule(NamedTuple):
    """What may be minted: patterns, and the longest lifetime in seconds; the configured issuer needs no pattern."""

    subjects: tuple[str, ...]
    audiences: tuple[str, ...]
    issuers: tuple[str, ...] = ()
    lifetime: int = _DEFAULT_LIFETIME


class Rule(NamedTuple):
    """Who may do what at the socket."""

    users: tuple[str, ...]
    groups: tuple[str, ...]
    mint: MintRule

    def as_mapping(self) -> dict[str, object]:
        """Return the rule as the configuration file would have it."""
        who = {name: list(names) for name, names in (("users", self.users), ("groups", self.groups)) if names}
        mint: dict[str, object] = {"subjects": list(self.mint.subjects), "audiences": list(self.mint.audiences)}
        if self.mint.issuers:
            mint["issuers"] = list(self.mint.issuers)
        return {**who, "mint": {**mint, "lifetime": format_duration(self.mint.lifetime)}}


def parse_listen(value: object) -> str:
    """Return an address and a port to listen at, as they are written. Raises `ConfigError`."""
    expected = "an address and a port: 127.0.0.1:7447, [::1]:7447 or localhost:7447"
    text = text_of(value, expected)
    match = re.fullmatch(LISTEN, text) if len(text) <= MAX_TEXT else None
    if match is None:
        fix = "names are not looked up: give the address itself"
        raise ConfigError("is not an address to listen at", expected=expected, found=shown(text), fix=fix)
    if int(match[2]) > MAX_PORT or (match[1].startswith("[") and not _is_ipv6(match[1][1:-1])):
        raise ConfigError("is an impossible address", expected=expected, found=shown(text))
    return text


def _is_ipv6(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, text)
    except OSError:
        return False
    return True


def parse_rules(value: object) -> tuple[Rule, ...]:
    """Return the rules of a list of mappings. Raises `ConfigError`, counting entries from 1."""
    return entries_of(
        value, most=MAX_RULES, parse=_parse_rule, same=lambda rule: rule, again="says what an earlier one says"
    )


def _parse_rule(entry: Mapping[str, object]) -> Rule:
    found = members_of(entry, _RULE)
    if not found.get("users") and not found.get("groups"):
        raise ConfigError("names nobody", expected="users, groups, or both", fix="name who may, or remove the rule")
    if "mint" not in found:
        raise ConfigError("mint is missing", expected="what they may mint", fix="whoever can connect may do the rest")
    return Rule(users=found.get("users", ()), groups=found.get("groups", ()), mint=found["mint"])


def _parse_mint(value: object) -> MintRule:
    if not isinstance(value, dict):
        raise ConfigError("is not a mapping", expected=", ".join(_MINT), found=kind_of(value))
    found = members_of(value, _MINT)
    for name in ("subjects", "audiences"):
        if not found.get(name):
            raise ConfigError(f"{name} is missing", expected="a list of at least one pattern", fix="'*' stands for any")
    return MintRule(**found)


def _list_of(pattern: str, expected: str) -> Callable[[object], tuple[str, ...]]:
    def parse(value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            found = f"a list of {len(value)}" if isinstance(value, list) else kind_of(value)
            fix = "write it as a list, in square brackets" if isinstance(value, str) else ""
            wanted = f"a list of at most {MAX_ITEMS}: {expected}"
            raise ConfigError("is not a list in range", expected=wanted, found=found, fix=fix)
        for item in value:
            text = text_of(item, expected)
            if not 0 < len(text) <= MAX_PATTERN or not re.fullmatch(pattern, text):
                raise ConfigError("has an entry that is not well formed", expected=expected, found=shown(text))
        return tuple(value)

    return parse


_NAMES: Final = _list_of(_ACCOUNT, "names of accounts on this machine")
_PATTERNS: Final = _list_of(_PATTERN, f"text of at most {MAX_PATTERN} characters, with one * at its end or none")
_MINT: Final[Mapping[str, Callable[[object], object]]] = {
    "subjects": _PATTERNS,
    "audiences": _PATTERNS,
    "issuers": _PATTERNS,
    "lifetime": _LIFETIME.parse,
}
_RULE: Final[Mapping[str, Callable[[object], object]]] = {"users": _NAMES, "groups": _NAMES, "mint": _parse_mint}


def rule_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of one rule."""
    name = {"type": "string", "pattern": f"^{_ACCOUNT}$"}
    pattern = {"type": "string", "minLength": 1, "maxLength": MAX_PATTERN, "pattern": r"^[^*\u0000-\u001f\u007f]*\*?$"}

    def several(item: Mapping[str, Any], about: str, least: int = 0) -> dict[str, Any]:
        return {"type": "array", "minItems": least, "maxItems": MAX_ITEMS, "items": item, "description": about}

    mint = {
        "subjects": several(pattern, "Which sub; exact, or with one * at the end.", 1),
        "audiences": several(pattern, "Which aud; each of a JWT must fit one of them.", 1),
        "issuers": several(pattern, "Which iss, beside the configured one."),
        "lifetime": {**_LIFETIME.schema, "default": _DEFAULT_LIFETIME, "description": "The longest lifetime."},
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "users": several(name, "Users of this machine."),
            "groups": several(name, "Groups of this machine, a process's supplementary ones among them."),
            "mint": {
                "type": "object",
                "description": "What they may mint.",
                "additionalProperties": False,
                "properties": mint,
                "required": ["subjects", "audiences"],
            },
        },
        "required": ["mint"],
        "anyOf": [{"required": [who], "properties": {who: {"minItems": 1}}} for who in ("users", "groups")],
    }
