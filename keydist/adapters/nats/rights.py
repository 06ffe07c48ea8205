"""What this user may do in NATS, tried without doing it. docs/doctor.md lists every probe and what it sends.

What a node must not be allowed is tried by messages that no server delivers (`Link.may_publish`); that the server
refuses such messages is seen first, at a subject that nobody uses, or nothing is tried. Were one delivered all the
same, its content would be refused: an expectation that cannot hold, a name that does not fit, a body where none may be.

What a node needs is really asked, so that a missing import or stream shows too: reads as they are, writes of the node's
own subjects with an expectation that no stream meets.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.adapters.nats.answers import NOBODY
from keydist.adapters.nats.bucket import (
    CHANGED,
    IMPORTED_INFO,
    IMPORTED_READ,
    NODES,
    WHO,
    stream_name,
    trail_stream_name,
    trail_subject,
)
from keydist.core.doctor.nats import Outcome, Right
from keydist.core.restart import Role
from keydist.errors import ForbiddenError, StoreTimeoutError

if TYPE_CHECKING:
    from keydist.adapters.nats.connection import Connection

NOBODYS: Final = "keydist-doctor"
"""A name that no node, no entry and no stream has."""
_API: Final = "$JS.API"
_SECONDS: Final = 2.0
_UNMET: Final = {
    "Nats-Expected-Stream": "keydist doctor: nothing is to be stored",  # no stream may have blanks in its name
    "Nats-Expected-Last-Sequence": "9007199254740991",
}


class Names(NamedTuple):
    """Which keyset's subjects, and whose."""

    bucket: str
    entry: str
    node: str


class _Probe(NamedTuple):
    what: str
    subject: str
    payload: bytes = b""
    headers: dict[str, str] | None = None
    stream: str = ""
    hears: bool = False
    sends: bool = True
    """False: only whether it may be published is asked, and nobody gets it."""
    own: str = ""
    """The subject of the same question in the account of the streams, where `subject` is how others import it."""


def _needed(names: Names, role: Role, *, trail: bool, answers: bool) -> list[_Probe]:
    bucket, entry, node = names
    own, fleet, ends = trail_subject(bucket, node), stream_name(f"{bucket}-nodes"), trail_stream_name(bucket)
    probes = [
        _Probe("write its own record", f"$KV.{bucket}-nodes.{node}", headers=_UNMET, stream=fleet),
        _Probe("hear of changes", f"{CHANGED}.{entry}", hears=True),
    ]
    if trail:
        probes.append(_Probe("write its own audit trail", own, headers=_UNMET, stream=ends))
    if answers:  # who listens without a keyset, and does not answer, would hold up a first key elsewhere
        probes.append(_Probe("hear who asks for the living", WHO, hears=True))
    if role is Role.LEADER:
        return _needed_by_leaders(names, trail=trail) + probes
    keyset = stream_name(bucket)
    reads = [
        _leader_read(names),
        _Probe("read the key from any replica", f"{_API}.DIRECT.GET.{keyset}.$KV.{bucket}.{entry}", stream=keyset),
    ]
    if trail:
        reads.append(_Probe("read the end of its own audit trail", f"{_API}.DIRECT.GET.{ends}.{own}", stream=ends))
    return reads + probes


def _needed_by_leaders(names: Names, *, trail: bool) -> list[_Probe]:
    bucket, entry, node = names
    keyset, fleet, ends = stream_name(bucket), stream_name(f"{bucket}-nodes"), trail_stream_name(bucket)
    stored, record = f"$KV.{bucket}.{entry}", f"$KV.{bucket}-nodes.{node}"
    probes = [
        _leader_read(names),
        _Probe("write the key", stored, headers=_UNMET, sends=False),
        _info("tell why no key is there", keyset),
        _Probe("hear the nodes' records", f"{NODES}.*", hears=True),
        _info("list the nodes' records", fleet),
        _Probe("read the nodes' records", f"{_API}.DIRECT.GET.{fleet}.{record}", stream=fleet),
        _Probe("ask who lives", WHO, sends=False),
    ]
    if trail:
        probes.append(_Probe("read the audit trail", f"{_API}.DIRECT.GET.{ends}", b'{"seq":1}', stream=ends))
    return probes


def _leader_read(names: Names) -> _Probe:
    own = f"{_API}.STREAM.MSG.GET.{stream_name(names.bucket)}"
    query = _last(f"$KV.{names.bucket}.{names.entry}")
    return _Probe("read the key from the stream's leader", IMPORTED_READ, query, own=own)


def _info(what: str, stream: str) -> _Probe:
    return _Probe(what, f"{IMPORTED_INFO}.{stream}", own=f"{_API}.STREAM.INFO.{stream}")


def _last(subject: str) -> bytes:
    return json.dumps({"last_by_subj": subject}).encode()


def _excess(names: Names, role: Role) -> list[_Probe]:
    bucket = names.bucket
    keyset, fleet, trail = stream_name(bucket), stream_name(f"{bucket}-nodes"), trail_stream_name(bucket)
    misnamed = json.dumps({"name": "keydist doctor", "stream_name": "keydist doctor"}).encode()
    nothing = json.dumps({"filter": "keydist.doctor.nothing", "seq": 1, "keep": 1}).encode()
    several = [
        _Probe("plant entries beside the key", f"$KV.{bucket}.{NOBODYS}", headers=_UNMET),
        _Probe("write other nodes' records", f"$KV.{bucket}-nodes.{NOBODYS}", headers=_UNMET),
        _Probe("write other nodes' audit trails", trail_subject(bucket, NOBODYS), headers=_UNMET),
        *(_Probe(f"purge {one}", f"{_API}.STREAM.PURGE.{one}", nothing) for one in (keyset, fleet, trail)),
        *(_Probe(f"delete {one}", f"{_API}.STREAM.DELETE.{one}", misnamed) for one in (keyset, fleet, trail)),
        _Probe("delete single messages", f"{_API}.STREAM.MSG.DELETE.{keyset}", b'{"seq":9007199254740991}'),
        _Probe("change the bucket", f"{_API}.STREAM.UPDATE.{keyset}", misnamed),
        _Probe("take copies away", f"{_API}.STREAM.PEER.REMOVE.{keyset}", b'{"peer":"keydist doctor"}'),
        _Probe("make streams", f"{_API}.STREAM.CREATE.{NOBODYS}", misnamed),
        _Probe("make consumers", f"{_API}.CONSUMER.CREATE.{keyset}", misnamed),
        _Probe("make named consumers", f"{_API}.CONSUMER.CREATE.{keyset}.{NOBODYS}", misnamed),
        _Probe("make durable consumers", f"{_API}.CONSUMER.DURABLE.CREATE.{keyset}.{NOBODYS}", misnamed),
        _Probe("read others' answers", f"_INBOX_{NOBODYS}.probe", hears=True),
        _Probe("read answers in the common inbox", f"_INBOX.{NOBODYS}", hears=True),
        _Probe("hear requests to JetStream", f"{_API}.STREAM.INFO.{NOBODYS}", hears=True),
    ]
    if role is Role.FOLLOWER:
        several.insert(0, _Probe("overwrite the key", f"$KV.{bucket}.{names.entry}", headers=_UNMET))
    return several


async def needed_rights(
    connection: Connection, names: Names, role: Role, *, trail: bool, answers: bool
) -> tuple[Right, ...]:
    """Try what a node of a role needs. Raises what ends a connection.

    `trail`: it sends its audit trail. `answers`: it holds a keyset, and so says that it lives where that is asked.
    """
    probes = _needed(names, role, trail=trail, answers=answers)
    return tuple([Right(one.what, one.subject, await _outcome(connection, one), one.stream) for one in probes])


async def excessive_rights(connection: Connection, names: Names, role: Role) -> tuple[Right, ...] | None:
    """Try what a node of a role must not do; None where it is not seen that this server delivers none of it."""
    if not await _refuses_replies(connection, names):
        return None
    found = []
    for probe in _excess(names, role):
        outcome = await (_outcome if probe.hears else _may_publish)(connection, probe)
        if outcome is Outcome.UNKNOWN:
            return None
        found.append(Right(probe.what, probe.subject, outcome))
    return tuple(found)


async def _refuses_replies(connection: Connection, names: Names) -> bool:
    """Tell whether the server refuses the reply subject of trials, seen at a subject that this user may use.

    The first is nobody's; the others are reads.
    """
    keyset = stream_name(names.bucket)
    reads = (
        f"{_API}.DIRECT.GET.{keyset}.$KV.{names.bucket}.{names.entry}",
        f"{_API}.STREAM.MSG.GET.{keyset}",
        f"{_API}.STREAM.INFO.{keyset}",
        IMPORTED_READ,
    )
    for subject in (f"keydist.doctor.{NOBODYS}", *reads):
        said = await connection.may_publish(subject, headers=None)
        if said is not False:
            return said is True
    return False


async def shares_account(connection: Connection, names: Names) -> bool:
    """Tell whether this user is in the account of the streams: a leader's read answers there under its own name."""
    read = _leader_read(names)
    return await _ask(connection, read.own, read.payload) is Outcome.ALLOWED


async def _outcome(connection: Connection, probe: _Probe) -> Outcome:
    if probe.hears:
        return Outcome.ALLOWED if await connection.may_hear(probe.subject) else Outcome.DENIED
    if not probe.sends:
        return await _may_publish(connection, probe)
    outcome = await _ask(connection, probe.subject, probe.payload, probe.headers)
    if probe.own and outcome is not Outcome.ALLOWED:
        own = await _ask(connection, probe.own, probe.payload)
        return own if own is Outcome.ALLOWED else outcome
    return outcome


async def _may_publish(connection: Connection, probe: _Probe) -> Outcome:
    said = await connection.may_publish(probe.subject, probe.payload, headers=probe.headers)
    return Outcome.UNKNOWN if said is None else Outcome.ALLOWED if said else Outcome.DENIED


async def _ask(connection: Connection, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> Outcome:
    try:
        reply = await connection.request(subject, payload, headers=headers, seconds=_SECONDS)
    except ForbiddenError:
        return Outcome.DENIED
    except StoreTimeoutError:
        return Outcome.UNKNOWN
    return Outcome.NOBODY if reply.status == NOBODY else Outcome.ALLOWED
