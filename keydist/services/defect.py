"""A defect, told as an alarm: by its type and place only, for its text may hold a secret."""

from __future__ import annotations

from traceback import walk_tb

from keydist.errors import InternalError, KeydistError


def defect(exc: BaseException, *, while_: str) -> KeydistError:
    """Return the failure to tell of an unexpected exception; of a group, of its first one. Keydist's own stay."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    if isinstance(exc, KeydistError):
        return exc
    frames = [(frame.f_globals.get("__name__", "?"), line) for frame, line in walk_tb(exc.__traceback__)]
    place = f" in {frames[-1][0]}:{frames[-1][1]}" if frames else ""
    return InternalError(
        f"something unexpected happened while {while_}: a defect in keydist",
        found=type(exc).__name__ + place,
        fix="report it with what the node and the store were doing",
    )
