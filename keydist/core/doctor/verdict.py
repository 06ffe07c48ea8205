"""What a check of `keydist doctor` comes to, and how several are told as one.

`ok` is false for a failure only: what should be better is a warning, and what this user or this role cannot see says
nothing either way.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.errors import KeydistError

if TYPE_CHECKING:
    from collections.abc import Iterable


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    UNSEEN = "unseen"
    WARN = "warn"
    FAIL = "fail"


class Verdict(NamedTuple):
    """What a check came to; `fix` says what to do, `exit_code` is that of a failure's family, 0 without one."""

    level: Level
    detail: str
    fix: str = ""
    exit_code: int = 0

    @property
    def is_ok(self) -> bool:
        """Whether nothing is known to be wrong."""
        return self.level is not Level.FAIL


class Finding(NamedTuple):
    """A check by its name, and what it came to."""

    name: str
    verdict: Verdict

    def as_json(self) -> dict[str, object]:
        """Return the members that a program reads."""
        level, detail, fix, _ = self.verdict
        return {"name": self.name, "ok": self.verdict.is_ok, "level": level.value, "detail": detail, "fix": fix}


def fine(detail: str) -> Verdict:
    """Return that all is as it should be."""
    return Verdict(Level.OK, detail)


def warning(detail: str, fix: str) -> Verdict:
    """Return that it works, and should be better."""
    return Verdict(Level.WARN, detail, fix)


def unseen(detail: str, fix: str = "") -> Verdict:
    """Return that it cannot be seen from here, or not as this user."""
    return Verdict(Level.UNSEEN, detail, fix)


def failing(error: KeydistError) -> Verdict:
    """Return a failure, in the words and with the exit code of an error."""
    facts = ", ".join(f"{name} {value}" for name, value in _facts(error) if value)
    detail = f"{error.message} ({facts})" if facts else error.message
    return Verdict(Level.FAIL, detail, error.fix, error.exit_code)


def _facts(error: KeydistError) -> tuple[tuple[str, str], ...]:
    return (("expected", error.expected), ("found", error.found))


def failed(kind: type[KeydistError], message: str, *, expected: str = "", found: str = "", fix: str = "") -> Verdict:
    """Return a failure of a family, without raising it."""
    error = kind.__new__(kind)  # some classes ask for more, which a verdict does not show
    KeydistError.__init__(error, message, expected=expected, found=found, fix=fix)
    return failing(error)


_WORST_FIRST: Final = (Level.FAIL, Level.WARN, Level.OK, Level.UNSEEN)


def together(verdicts: Iterable[Verdict], *, most: int = 4) -> Verdict:
    """Return several verdicts as one: as bad as the worst, which is told, with what to do about it.

    What is fine is told where nothing is worse; of more than `most`, only how many there are.
    """
    several = tuple(verdicts)
    level = next((level for level in _WORST_FIRST if any(one.level is level for one in several)), Level.UNSEEN)
    told = tuple(one for one in several if one.level is level)
    more = f"; and {len(told) - most} more" if len(told) > most else ""
    return Verdict(
        level,
        "; ".join(dict.fromkeys(one.detail for one in told[:most])) + more,
        "; ".join(dict.fromkeys(one.fix for one in told[:most] if one.fix)),
        next((one.exit_code for one in told if one.exit_code), 0),
    )
