"""Streams as the server describes them, and the server's time by the way; reads only."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from keydist.adapters.nats.answers import NO_STREAM, error_code, is_stored, parse_answer, raise_error
from keydist.adapters.nats.bucket import (
    keyset_stream,
    problems,
    records_stream,
    stream_name,
    trail_stream,
    trail_stream_name,
    trail_subject,
)
from keydist.adapters.nats.renamed import stream_info
from keydist.core.doctor.nats import Peer, StreamSeen
from keydist.core.doctor.times import Offset
from keydist.errors import KeydistError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keydist.adapters.clock import SystemClock
    from keydist.adapters.nats.connection import Connection
    from keydist.adapters.nats.rights import Names

_MOST_PEERS: Final = 16


class Described(NamedTuple):
    """One stream: None where there is none; and how far the server's clock is ahead, where it says the time."""

    seen: StreamSeen | None
    offset: Offset | None


def wanted_streams(bucket: str, *, trail: bool) -> dict[str, dict[str, Any]]:
    """Return the streams of a keyset by name, with what their configuration should be; replicas apart."""
    found = {
        stream_name(bucket): keyset_stream(bucket, replicas=1),
        stream_name(f"{bucket}-nodes"): records_stream(f"{bucket}-nodes", replicas=1),
    }
    return found | ({trail_stream_name(bucket): trail_stream(bucket, replicas=1)} if trail else {})


async def describe_stream(
    connection: Connection, clock: SystemClock, name: str, wanted: Mapping[str, Any]
) -> Described:
    """Return how a stream is kept. Raises `ForbiddenError` where this user may not ask, and as `request`."""
    sent, began = clock.stamp(), clock.monotonic()
    reply = await stream_info(connection, name).ask()
    info = parse_answer(reply)
    offset = _offset(info.get("ts"), sent=sent, took=clock.monotonic() - began)
    if error_code(info) == NO_STREAM:
        return Described(None, offset)
    raise_error(info)
    config = info.get("config")
    found = config if isinstance(config, dict) else {}
    replicas = found.get("num_replicas", 1)
    seen = StreamSeen(
        name=name,
        problems=tuple(problems(found, wanted)),
        replicas=replicas if type(replicas) is int else 0,
        peers=_peers(info.get("cluster")),
    )
    return Described(seen, offset)


def _peers(cluster: object) -> tuple[Peer, ...]:
    listed = cluster.get("replicas") if isinstance(cluster, dict) else None
    several = listed[:_MOST_PEERS] if isinstance(listed, list) else []
    return tuple(
        Peer(str(one.get("name", "?"))[:64], one.get("current") is True, one.get("offline") is True)
        for one in several
        if isinstance(one, dict)
    )


def _offset(stamp: object, *, sent: float, took: float) -> Offset | None:
    at = unix_of(stamp)  # at some moment between the question and its answer
    return None if at is None else Offset(at - (sent + took / 2), took / 2)


def unix_of(stamp: object) -> float | None:
    """Return the unix seconds of a time as nats-server writes it; None where it is none."""
    try:
        found = datetime.fromisoformat(str(stamp))
    except ValueError:
        return None
    return None if found.tzinfo is None else found.timestamp()


async def last_stored(connection: Connection, names: Names) -> int | None:
    """Return when the server last stored what this user may read: the key, or its own trail (unix seconds)."""
    trail = trail_stream_name(names.bucket)
    subjects = (
        f"$JS.API.DIRECT.GET.{stream_name(names.bucket)}.$KV.{names.bucket}.{names.entry}",
        f"$JS.API.DIRECT.GET.{trail}.{trail_subject(names.bucket, names.node)}",
    )
    found = []
    for subject in subjects:
        try:
            reply = await connection.request(subject, seconds=2.0)
        except KeydistError:
            continue
        at = unix_of(reply.headers.get("Nats-Time-Stamp")) if is_stored(reply) else None
        if at is not None:
            found.append(int(at))
    return max(found, default=None)
