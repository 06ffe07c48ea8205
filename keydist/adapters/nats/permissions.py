"""What each role of a keydist cluster may do in NATS: one table, each line with its reason.

The server does not check a request's reply subject, so a permission to ask is one to do anything within an account:
leaders and followers live in accounts of their own and import what they may do (see `accounts`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

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

CHANGES_HEARD: Final = f"{CHANGED}.>"
RECORDS_HEARD: Final = f"{NODES}.>"
_API: Final = "$JS.API"


class Allowed(NamedTuple):
    """A subject, and why a role needs it."""

    subject: str
    why: str


class Permissions(NamedTuple):
    """What one user may publish, what it may subscribe to, and whether it may answer who asks it."""

    publish: tuple[Allowed, ...]
    subscribe: tuple[Allowed, ...]
    answers: bool


class Subjects(NamedTuple):
    """The subjects of one keyset's buckets and audit trail, and the bucket's name.

    A node's record is `records` + its name, its trail `trail` + its name, the end of that `trail_last` + its name.
    """

    entry: str
    records: str
    direct_get: str
    leader_get: str
    info: str
    imported_info: str
    records_info: str
    imported_records_info: str
    records_get: str
    trail: str
    trail_last: str
    trail_get: str
    streams: tuple[str, str, str]
    bucket: str


def subjects(bucket: str = "keydist", entry: str = "signing-key") -> Subjects:
    """Return the subjects of a keyset's entry, of its node records and of its audit trail."""
    keyset, records, trail = stream_name(bucket), stream_name(f"{bucket}-nodes"), trail_stream_name(bucket)
    own_trail = trail_subject(bucket, "")
    return Subjects(
        entry=f"$KV.{bucket}.{entry}",
        records=f"$KV.{bucket}-nodes.",
        direct_get=f"{_API}.DIRECT.GET.{keyset}.$KV.{bucket}.{entry}",
        leader_get=f"{_API}.STREAM.MSG.GET.{keyset}",
        info=f"{_API}.STREAM.INFO.{keyset}",
        imported_info=f"{IMPORTED_INFO}.{keyset}",
        records_info=f"{_API}.STREAM.INFO.{records}",
        imported_records_info=f"{IMPORTED_INFO}.{records}",
        records_get=f"{_API}.DIRECT.GET.{records}.>",
        trail=own_trail,
        trail_last=f"{_API}.DIRECT.GET.{trail}.{own_trail}",
        trail_get=f"{_API}.DIRECT.GET.{trail}",
        streams=(keyset, records, trail),
        bucket=bucket,
    )


def inbox(name: str) -> Allowed:
    """Return where a user's own answers come to."""
    return Allowed(f"_INBOX_{name}.>", "its own answers: whoever hears another's inbox reads what that one asked")


def operator(name: str, use: Subjects, *, regions: tuple[str, ...] = ()) -> Permissions:
    """Return what makes the buckets, forgets a node and reads: no write to the entry, a record or a trail.

    For each of the `regions` it makes what the mirror there reads with.
    """
    consumers = [
        allowed
        for region in regions
        for allowed in (
            Allowed(f"{_API}.CONSUMER.INFO.{use.streams[0]}.{region}", f"how the mirror of {region} reads"),
            Allowed(f"{_API}.CONSUMER.CREATE.{use.streams[0]}.{region}", "keydist store init --link makes it"),
            Allowed(f"{_API}.CONSUMER.RESET.{use.streams[0]}.{region}", "or has it begin anew, for a new mirror"),
        )
    ]
    reads = [
        allowed
        for stream in use.streams
        for allowed in (
            Allowed(f"{_API}.STREAM.INFO.{stream}", "how the stream is configured, and what it holds"),
            Allowed(f"{_API}.STREAM.CREATE.{stream}", "keydist store init makes it"),
            Allowed(f"{_API}.STREAM.MSG.GET.{stream}", "a read from the stream's leader; it is sealed or signed"),
        )
    ]
    return Permissions(
        publish=(
            *reads,
            *consumers,
            Allowed(use.direct_get, "a read of the keyset from any replica; it is sealed"),
            Allowed(use.records_get, "all node records: keydist node list, status --fleet"),
            Allowed(use.trail_get, "the audit trail, in its order: keydist audit"),
            Allowed(f"{use.trail_get}.>", "the audit trail of one node"),
            Allowed(f"{_API}.STREAM.PURGE.{use.streams[1]}", "keydist node forget; the records' stream and no other"),
            Allowed(WHO, "asks who lives, before a node is forgotten"),
        ),
        subscribe=(
            inbox(name),
            Allowed(CHANGES_HEARD, "hears that the keyset changed"),
            Allowed(RECORDS_HEARD, "hears node records as they are written"),
        ),
        answers=False,
    )


def mirror_operator(name: str, use: Subjects) -> Permissions:
    """Return what the operator may do in a region: make the mirror, and read it."""
    keyset = use.streams[0]
    return Permissions(
        publish=(
            Allowed(use.info, "how the mirror is configured, and what it holds"),
            Allowed(f"{_API}.STREAM.CREATE.{keyset}", "keydist store init --mirror makes it"),
            Allowed(use.direct_get, "a read of the keyset from the mirror; it is sealed"),
        ),
        subscribe=(inbox(name), Allowed(CHANGES_HEARD, "hears that the keyset changed")),
        answers=False,
    )


def leader(name: str, use: Subjects) -> Permissions:
    """Return what writes the keyset by compare-and-set, and a record and a trail of its own."""
    return Permissions(
        publish=(
            Allowed(use.entry, "writes the keyset, by compare-and-set"),
            Allowed(use.imported_info, "tells why nothing is there; without it no first key is generated"),
            Allowed(IMPORTED_READ, "reads from the stream's leader before it decides"),
            Allowed(use.direct_get, "reads from any replica while the stream has no leader"),
            Allowed(use.imported_records_info, "which nodes have a record"),
            Allowed(use.records_get, "reads every record: a rotation waits for all of the living"),
            Allowed(WHO, "asks who lives, before a first key"),
            Allowed(use.trail_get, "reads the audit trail of all nodes"),
            Allowed(f"{use.trail_get}.>", "reads the audit trail of one node, and the end of its own"),
            Allowed(use.records + name, "its own record, and no other"),
            Allowed(use.trail + name, "its own audit trail, and no other"),
        ),
        subscribe=(
            inbox(name),
            Allowed(CHANGES_HEARD, "hears that the keyset changed"),
            Allowed(RECORDS_HEARD, "hears node records as they are written"),
            Allowed(WHO, "hears who asks for the living"),
        ),
        answers=True,
    )


def follower(name: str, use: Subjects) -> Permissions:
    """Return what reads the keyset, and writes a record and a trail of its own."""
    return Permissions(
        publish=(
            Allowed(use.direct_get, "reads the keyset from any replica"),
            Allowed(IMPORTED_READ, "reads it from the stream's leader, to confirm that its epoch is current"),
            Allowed(use.records + name, "its own record, and no other"),
            Allowed(use.trail + name, "its own audit trail, and no other"),
            Allowed(use.trail_last + name, "the end of its own audit trail, to go on behind it"),
        ),
        subscribe=(
            inbox(name),
            Allowed(CHANGES_HEARD, "hears that the keyset changed"),
            Allowed(WHO, "hears a leader ask for the living"),
        ),
        answers=True,
    )
