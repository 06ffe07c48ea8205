"""What a NATS server shows of itself: TLS or not, how its streams are kept, what it lets this user do.

A right is *denied* where the server says so, *nobody* where a request reaches no stream. What is not needed must be
denied: anything else is one theft of credentials away from being used.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.core.doctor.times import Term, term
from keydist.core.doctor.verdict import Verdict, failed, fine, together, unseen, warning
from keydist.core.restart import Role
from keydist.errors import BucketMissingError, ConfigError, ForbiddenError, StoreTimeoutError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

REPLICAS: Final = 3
_ACCOUNTS: Final = "compare the user's permissions with docs/nats.md"
_EDIT: Final = "as a user who may change streams, which no node and no operator needs (docs/nats.md): nats stream edit"


class Greeting(NamedTuple):
    """How one server meets who connects.

    `in_clear`: it speaks first, before any TLS; it then says whether it `offers` or `demands` TLS. `tls` is the version
    of the protocol where a handshake succeeded, else empty; `certificate` the server's validity. `error` says why
    nothing came of it.
    """

    url: str
    is_local: bool
    in_clear: bool = False
    offers: bool = False
    demands: bool = False
    tls: str = ""
    certificate: Term | None = None
    error: str = ""


def tls(found: Sequence[Greeting], *, is_asked_for: bool, now: int) -> Verdict:
    """Judge how every server of `nats.servers` is talked to; `is_asked_for`: the configuration demands TLS."""
    judge = _encrypted if is_asked_for else _plain
    return together(judge(one, now) for one in found)


def _plain(found: Greeting, _now: int) -> Verdict:
    if not found.is_local:
        return failed(
            ConfigError,
            f"{found.url} is talked to in plain text: credentials can be read and requests altered on the way",
            expected="tls:// addresses, or nats.tls",
            fix="give the server a certificate and handshake_first: true, and set nats.tls (docs/nats.md)",
        )
    if found.offers or (found.error and not found.in_clear):
        fix = "set nats.tls" if found.offers else "see the check store"
        return warning(f"{found.url}: {found.error or 'the server offers TLS, and it is not used'}", fix)
    return fine(f"{found.url} is talked to in plain text, which stays on this machine")


def _encrypted(found: Greeting, now: int) -> Verdict:
    if found.in_clear and not found.offers:
        return failed(
            ConfigError,
            f"{found.url} offers no TLS, and nats.tls demands it",
            expected="a tls block with handshake_first: true in the server's configuration",
            found="a greeting in clear",
            fix="add it to the server; keydist does not fall back to plain text",
        )
    if not found.tls:
        if found.in_clear:
            return failed(
                ConfigError,
                f"{found.url} speaks before TLS begins, so keydist does not talk to it",
                expected="handshake_first: true in the server's tls block",
                found=found.error,
                fix="set it, and reload the server",
            )
        return unseen(f"{found.url}: {found.error}", "see the check store")
    if found.in_clear:
        fix = "set handshake_first: true, not auto, in the server's tls block"
        return warning(f"{found.url}: {found.tls}, but who waits is greeted in clear first", fix)
    if found.certificate is None:
        return fine(f"{found.url}: {found.tls}, handshake first")
    judged = term("the server's certificate", found.certificate, now=now, fix="renew it, and reload the server")
    return judged._replace(detail=f"{found.url}: {found.tls}, handshake first; {judged.detail}")


class Peer(NamedTuple):
    """One of the servers that hold a copy."""

    name: str
    is_current: bool
    is_offline: bool


class StreamSeen(NamedTuple):
    """A stream as its configuration tells: what is wrong with it, how many copies it has, where the others are."""

    name: str
    problems: tuple[str, ...]
    replicas: int
    peers: tuple[Peer, ...]


def stream(found: StreamSeen | None, *, name: str, is_needed: bool) -> Verdict:
    """Judge how a stream is kept; None: there is none."""
    if found is None:
        if not is_needed:
            return warning(f"there is no {name} yet", "make it with: keydist store init")
        return failed(BucketMissingError, f"there is no {name}", fix="make it with: keydist store init")
    if found.problems:
        return failed(
            ConfigError,
            f"{name}: {'; '.join(found.problems)}",
            fix=f"{_EDIT} {name}",
        )
    return fine(f"{name} is kept as it should be: on disk, direct gets, no deletes, no limit that loses anything")


def replicas(found: Sequence[StreamSeen], *, is_clustered: bool) -> Verdict:
    """Judge how many copies there are of each stream, and whether they keep up."""
    if not is_clustered:
        fix = "run three servers as a cluster, and make the buckets with: keydist store init --replicas 3"
        return warning("one NATS server holds the only copy", fix)
    return together(_copies(one) for one in found)


def _copies(found: StreamSeen) -> Verdict:
    if found.replicas < REPLICAS:
        return failed(
            ConfigError,
            f"{found.name} has too few copies: one lost disk may lose the key",
            expected=f"{REPLICAS} replicas or more",
            found=str(found.replicas),
            fix=f"{_EDIT} {found.name} --replicas {REPLICAS}",
        )
    away = [peer.name for peer in found.peers if peer.is_offline]
    late = [peer.name for peer in found.peers if not peer.is_current and not peer.is_offline]
    if away or late:
        told = [f"{', '.join(names)} {how}" for names, how in ((away, "offline"), (late, "behind")) if names]
        return warning(f"{found.name}: {'; '.join(told)}", "see that every nats-server runs and can reach the others")
    return fine(f"{found.name}: {found.replicas} copies, all current")


class Outcome(StrEnum):
    """What came of trying a right."""

    ALLOWED = "allowed"
    DENIED = "denied"
    NOBODY = "nobody"
    UNKNOWN = "unknown"


class Right(NamedTuple):
    """A right, as people call it, its subject, what came of trying it, and the stream that answers, if one does."""

    what: str
    subject: str
    outcome: Outcome
    stream: str = ""


def needed(found: Sequence[Right], *, missing: Collection[str], has_key: bool) -> Verdict:
    """Judge the rights that a node of this role needs.

    `missing` are streams that are known not to exist yet; `has_key`: the store holds a key, so that it was set up.
    """
    wrong = [one for right in found if (one := _lacking(right, missing=missing, has_key=has_key)) is not None]
    return together(wrong) if wrong else fine(f"all {len(found)} rights that this role needs")


def _lacking(right: Right, *, missing: Collection[str], has_key: bool) -> Verdict | None:
    what, subject = right.what, right.subject
    if right.outcome is Outcome.ALLOWED:
        return None
    if right.outcome is Outcome.DENIED:
        return failed(ForbiddenError, f"NATS does not allow this node to {what}", expected=subject, fix=_ACCOUNTS)
    if right.outcome is Outcome.UNKNOWN:
        fix = "try again; a JetStream that is electing a leader answers within seconds"
        return failed(StoreTimeoutError, f"no answer when this node tried to {what}", expected=subject, fix=fix)
    if not has_key or right.stream in missing:
        there = f"{right.stream} is" if right.stream else "the buckets are"
        return warning(f"whether this node can {what} shows once {there} there", "keydist store init")
    return failed(
        BucketMissingError,
        f"this node may {what}, but nobody answers there",
        expected=subject,
        fix="make the streams with keydist store init; a follower's account must import the subject (docs/nats.md), and"
        " a region be linked to home",
    )


def excess(found: Sequence[Right], *, role: Role, shares_account: bool, is_refused: bool) -> Verdict:
    """Judge the rights that a node of this role must not have.

    `shares_account`: this user's account is that of the streams. `is_refused`: the server refuses the reply
    subject under which the rights are tried; where it does not, nothing was tried.
    """
    if not is_refused:
        return unseen(
            "this server does not refuse the reply subject that makes a trial harmless: nothing was tried", _ACCOUNTS
        )
    held = [right for right in found if right.outcome is Outcome.ALLOWED]
    several = [f"may {right.what} ({right.subject})" for right in held]
    if shares_account:
        several.insert(0, "is in the account of the streams, where every right to ask is one to write and to delete")
    if not several:
        return fine(f"nothing beyond its role, of {len(found)} rights tried")
    text = f"this {role.value}'s user " + "; ".join(several[:4])
    more = f"; and {len(several) - 4} more" if len(several) > 4 else ""  # noqa: PLR2004 - as above
    if role is Role.LEADER:
        return warning(f"{text}{more}", f"take what is not needed away: {_ACCOUNTS}")
    return failed(
        ForbiddenError,
        f"{text}{more}",
        expected="none of these rights",
        fix=f"give followers an account of their own: {_ACCOUNTS}",
    )


class Synced(NamedTuple):
    """How often a server syncs to disk: each write (`always`), or every so many seconds. `error`: it did not say."""

    url: str
    always: bool = False
    seconds: int | None = None
    error: str = ""


def sync(found: Sequence[Synced]) -> Verdict:
    """Judge how often the servers sync to disk: no client is told, only who asks their monitoring endpoints."""
    if not found:
        return unseen(
            "how often the NATS servers sync to disk is not visible to clients",
            "look for jetstream { sync_interval: always } on each of them, or name their endpoints: --monitor URL",
        )
    return together(_synced(one) for one in found)


def _synced(found: Synced) -> Verdict:
    if found.error:
        return unseen(f"{found.url}: {found.error}")
    if found.always:
        return fine(f"{found.url} syncs each write")
    often = "" if found.seconds is None else f" every {found.seconds} s"
    fix = "set jetstream { sync_interval: always } there: until it syncs, an acknowledged write is lost with the power"
    return warning(f"{found.url} syncs only{often or ' now and then'}", fix)
