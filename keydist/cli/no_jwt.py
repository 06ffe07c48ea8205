"""No command takes a JWT as an argument: every user of a machine can read the arguments of every process."""

from __future__ import annotations

import re
from typing import Any, Final

from typer.core import TyperGroup

from keydist.core.strict import b64url_decode
from keydist.errors import MalformedError, UsageError

_HEADER: Final = re.compile(r"(e[yw][A-Za-z0-9_-]{8,1024})\.", re.ASCII)
"""How base64url of JSON begins: an open brace, then a quote or white space."""


def looks_like_jwt(argument: str) -> bool:
    """Tell whether the header of a JWT, or of a JWE, stands anywhere in a text."""
    return any(_names_algorithm(found) for found in _HEADER.findall(argument))


def _names_algorithm(segment: str) -> bool:
    try:
        return b'"alg"' in b64url_decode(segment, "a header")
    except MalformedError:
        return False


class NoJwtGroup(TyperGroup):
    """A group of commands that refuses a JWT among its arguments, without repeating it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer does not export it
        """Take arguments, none of which is a JWT. Raises `UsageError`."""
        if any(looks_like_jwt(argument) for argument in args):
            raise UsageError(
                "an argument looks like a JWT, and every user of this machine can read arguments",
                expected="a file, or - for standard input",
                fix='write it to standard input: printf %s "$JWT" | keydist jwt verify; let go of this one',
            )
        return super().parse_args(ctx, args)
