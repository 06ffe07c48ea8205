"""Which units take which credentials: the `credentials:` of the configuration, parsed strictly, and its JSON Schema.

A rule names a service (`web.service`), or every instance of a template (`web@*.service`). The message of each
`ConfigError` continues the field's name. Loaded only where the configuration has rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from keydist.adapters.config_entries import entries_of, members_of
from keydist.adapters.config_schema import kind_of, shown, text_of
from keydist.errors import ConfigError

NAMES: Final = ("signing-key", "jwks")
"""What there is: the active signing key as PEM, and the JWK Set. Never a bootstrap token."""
MAX_RULES: Final = 256
MAX_UNIT: Final = 72
"""What a socket's address (108 bytes) leaves for a unit's name, beside 16 hex digits, `/unit/` and `signing-key`."""

_CHARACTER: Final = r"[A-Za-z0-9:_.\\-]"
UNIT: Final = rf"{_CHARACTER}+(?:@(?:{_CHARACTER}|@)+)?\.service"
"""The name of a service that runs: a template itself, without an instance, never does."""
_PATTERN: Final = rf"(?!-)(?:{UNIT}|{_CHARACTER}+@\*\.service)"
_ANY: Final = "*"


class CredentialRule(NamedTuple):
    """What one unit, or every instance of one template, may take."""

    unit: str
    names: tuple[str, ...]

    def as_mapping(self) -> dict[str, object]:
        """Return the rule as the configuration file would have it."""
        return {"unit": self.unit, "names": list(self.names)}

    def is_for(self, unit: str) -> bool:
        """Tell whether this rule is about a unit."""
        before, any_instance, after = self.unit.partition(_ANY)
        if not any_instance:
            return unit == self.unit
        return unit.startswith(before) and unit.endswith(after) and len(unit) > len(before) + len(after)


def is_allowed(rules: Iterable[CredentialRule], unit: str, name: str) -> bool:
    """Tell whether a unit may take a credential: by default none may."""
    return any(name in rule.names and rule.is_for(unit) for rule in rules)


def parse_credentials(value: object) -> tuple[CredentialRule, ...]:
    """Return the rules of a list of mappings. Raises `ConfigError`, counting entries from 1."""
    return entries_of(
        value,
        most=MAX_RULES,
        parse=_parse_rule,
        same=lambda rule: rule.unit,
        again="is about the unit of an earlier one",
    )


def _parse_rule(entry: Mapping[str, object]) -> CredentialRule:
    found = members_of(entry, _MEMBERS)
    if len(found) < len(_MEMBERS):
        raise ConfigError("unit and names go together", fix="name both")
    return CredentialRule(**found)


def _unit(value: object) -> str:
    expected = f"a service of at most {MAX_UNIT} characters, as web.service, web@a.service or web@*.service"
    text = text_of(value, expected)
    if len(text) > MAX_UNIT or not re.fullmatch(_PATTERN, text):
        raise ConfigError("is not the name of a service", expected=expected, found=shown(text))
    return text


def _names(value: object) -> tuple[str, ...]:
    expected = f"a list with {' or '.join(NAMES)}, or both"
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else kind_of(value)
        raise ConfigError("is not a list of credentials", expected=expected, found=found)
    for name in value:
        text = text_of(name, expected)
        if text not in NAMES:
            raise ConfigError("has one that does not exist", expected=expected, found=shown(text))
    if len(set(value)) < len(value):
        raise ConfigError("has one twice", expected=expected)
    return tuple(value)


_MEMBERS: Final[Mapping[str, Callable[[object], object]]] = {"unit": _unit, "names": _names}


def credential_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of one rule."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "unit": {
                "type": "string",
                "pattern": f"^(?:{_PATTERN})$",
                "maxLength": MAX_UNIT,
                "description": "A service, or every instance of a template: web@*.service.",
            },
            "names": {
                "type": "array",
                "minItems": 1,
                "uniqueItems": True,
                "items": {"type": "string", "enum": list(NAMES)},
                "description": "What it may take.",
            },
        },
        "required": list(_MEMBERS),
    }
