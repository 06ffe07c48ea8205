"""Times: what expires and when, and how far this machine's clock is from the server's."""

from __future__ import annotations

from typing import Final, NamedTuple

from keydist.core.doctor.verdict import Verdict, failed, fine, unseen, warning
from keydist.errors import ClockBehindError, ConfigError, CredentialsRefusedError, KeydistError

_DAY: Final = 86_400
_HOUR: Final = 3_600
SOON_DAYS: Final = 14
"""What ends within so many days is a warning."""


class Term(NamedTuple):
    """From when and until when something is valid (unix seconds); None: without a beginning, or for ever."""

    start: int | None
    end: int | None


def span(seconds: int) -> str:
    """Return a duration for people."""
    if seconds >= 2 * _DAY:
        return f"{seconds // _DAY} days"
    return f"{seconds // _HOUR} hours" if seconds >= 2 * _HOUR else f"{seconds} s"


def term(what: str, found: Term, *, now: int, fix: str, kind: type[KeydistError] = ConfigError) -> Verdict:
    """Judge a validity; `what` names it, `fix` says how it is renewed."""
    if found.start is not None and now < found.start:
        return failed(
            kind, f"{what} is not valid yet", found=f"valid in {span(found.start - now)}", fix="check the clock"
        )
    if found.end is None:
        return fine(f"{what} does not expire")
    left = found.end - now
    if left <= 0:
        return failed(kind, f"{what} has expired", found=f"{span(-left)} ago", fix=fix)
    if left < SOON_DAYS * _DAY:
        return warning(f"{what} expires in {span(left)}", fix)
    return fine(f"{what} is valid for {span(left)}")


def credentials(what: str, found: Term, *, now: int) -> Verdict:
    """Judge the validity of a JWT of NATS."""
    fix = "issue it anew with nsc and copy the file: it is read at the next connection"
    return term(what, found, now=now, fix=fix, kind=CredentialsRefusedError)


class Offset(NamedTuple):
    """How far the server's clock is ahead of this one, in seconds, give or take `error`."""

    ahead: float
    error: float


def clock(found: Offset | None, *, stored: int | None, now: int, skew: int) -> Verdict:
    """Judge this machine's clock by the server's; `skew` is what the policy allows for.

    Who may not ask the server for its time sees only what it `stored` last, which cannot be later than now.
    """
    fix = "set it right and keep it so: timedatectl set-ntp true, or chrony; then: keydist bootstrap"
    if found is None:
        if stored is not None and stored > now + skew:
            return _off(f"{stored - now} s behind what the server stored last", skew=skew, fix=fix)
        if stored is None:
            return unseen(
                "the server's time cannot be seen as this user, or not before there is a bucket",
                "look with: timedatectl, or chronyc tracking",
            )
        return unseen(
            f"not behind what the server stored {span(now - stored)} ago; more cannot be seen as this user",
            "look with: timedatectl, or chronyc tracking",
        )
    off = max(0.0, abs(found.ahead) - found.error)
    where = "behind" if found.ahead > 0 else "ahead of"
    if off > skew:
        return _off(f"{abs(found.ahead):.1f} s {where} the server's", skew=skew, fix=fix)
    text = f"{abs(found.ahead):.2f} s {where} the server's, within {found.error:.2f} s; the policy allows for {skew} s"
    return warning(text, fix) if off > skew / 2 else fine(text)


def _off(found: str, *, skew: int, fix: str) -> Verdict:
    return failed(
        ClockBehindError,
        "this machine's clock, or the server's, is wrong",
        expected=f"at most {skew} s of difference (policy: skew)",
        found=found,
        fix=fix,
    )
