"""A JWT decoded without trust: what it says, and why keydist would refuse it for its shape alone."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from keydist.core.jws import MAX_JWT, check_claims, parse_compact
from keydist.errors import InvalidJwtError

_MAX_DEPTH: Final = 64


class Inspected(NamedTuple):
    """What was decoded, each part None where it cannot be; `refusal` is why verify would not look further."""

    header: dict[str, Any] | None
    claims: dict[str, Any] | None
    refusal: InvalidJwtError | None


def look_into(text: str, *, now: int, leeway: int) -> Inspected:
    """Decode what can be decoded of a JWT; its signature is not looked at. Times in (unix) seconds."""
    segments = [*text[:MAX_JWT].split(".", 3), "", ""]
    header, claims = _object(segments[0]), _object(segments[1])
    return Inspected(header=header, claims=claims, refusal=_refusal(text, claims or {}, now=now, leeway=leeway))


def _refusal(text: str, claims: Mapping[str, Any], *, now: int, leeway: int) -> InvalidJwtError | None:
    """Return why a JWT is refused whoever signed it: measured by the issuer and the audience that it names itself."""
    audience = claims.get("aud")
    if isinstance(audience, list):
        audience = next(iter(audience), "")
    try:
        check_claims(parse_compact(text), issuer=claims.get("iss", ""), audience=audience or "", now=now, leeway=leeway)
    except InvalidJwtError as exc:
        return exc
    return None


def _object(segment: str) -> dict[str, Any] | None:
    """Return the JSON object of a segment as any reader would take it, or None."""
    try:
        raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
        value = json.loads(raw, parse_constant=str, parse_float=_fraction)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and _is_shown(value) else None


def _is_shown(value: dict[str, Any]) -> bool:
    """Tell whether a value is not too deep to be shown: how deep a reader goes depends on the Python that runs it."""
    level: list[Any] = [value]
    for _ in range(_MAX_DEPTH):
        level = [item for one in level for item in (one.values() if isinstance(one, dict) else one)]
        level = [item for item in level if isinstance(item, dict | list)]
        if not level:
            return True
    return False


def _fraction(text: str) -> float | str:
    """Return a number, as it was written where a float has none so large: JSON has no infinity to show it by."""
    number = float(text)
    return text if math.isinf(number) else number
