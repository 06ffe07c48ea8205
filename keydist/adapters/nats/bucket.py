"""The buckets and the audit trail as JetStream streams: the checked configuration, what is wrong with another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

MAX_MESSAGE: Final = 64 * 1024
RECORD_AGE_SECONDS: Final = 7 * 86_400
TRAIL_BYTES: Final = 512 * 1024 * 1024
"""What an audit trail takes at most, until somebody gives it another limit: who fills it leaves room for the key."""
RECORDS_BYTES: Final = 128 * 1024 * 1024
"""What records take at most: room for 10,000 nodes with ten KiB each, and none for who writes in anybody's name."""
CHANGED: Final = "keydist.changed"
NODES: Final = "keydist.nodes"
TRAIL: Final = "keydist.audit"
WHO: Final = "keydist.who"
IMPORTED_READ: Final = "keydist.current"
"""The read from the stream's leader as other accounts import it: see `renamed`."""
IMPORTED_INFO: Final = "keydist.info"
"""How a stream is, as other accounts import it: `<IMPORTED_INFO>.<stream>`."""
HOME: Final = "keydist.home"
"""What a region asks of home goes below it; see `regions`."""
HOME_API: Final = f"{HOME}.api"
NOBODY_TAKES: Final = (
    "wait some seconds, NATS may elect; else make it with: keydist store init;"
    " a follower's account must import it, a region be linked to home"
)
"""What to do where nobody answers for a stream: there is none, it has no leader now, or this user cannot reach it."""
_MIRROR: Final = f"{HOME}.mirror"
_MIRROR_PENDING: Final = 100
_NANOSECONDS: Final = 1_000_000_000
_SHOWN: Final = 120
"""How much is shown of what a server says."""


def stream_name(bucket: str) -> str:
    """Return the name of the stream behind a bucket."""
    return f"KV_{bucket}"


def keyset_stream(bucket: str, *, replicas: int) -> dict[str, Any]:
    """Return the configuration of the keyset's stream: one message a subject, durable, no deletes, changes told."""
    return _stream(
        bucket, replicas=replicas, republish={"src": f"$KV.{bucket}.>", "dest": f"{CHANGED}.>", "headers_only": True}
    )


def records_stream(bucket: str, *, replicas: int) -> dict[str, Any]:
    """Return the configuration of the node records' stream: as the keyset's, with limits of age and size."""
    return _stream(
        bucket, replicas=replicas, republish={"src": f"$KV.{bucket}.*", "dest": NODES + ".{{wildcard(1)}}"}
    ) | {"max_age": RECORD_AGE_SECONDS * _NANOSECONDS, "max_bytes": RECORDS_BYTES}


def mirror_stream(bucket: str, *, replicas: int, region: str) -> dict[str, Any]:
    """Return the configuration of a region's mirror of the keyset's stream: the same, but that nobody writes to it.

    It tells of changes itself, once it has them: who is told by home could read what the mirror does not have yet.
    """
    kept = {name: value for name, value in keyset_stream(bucket, replicas=replicas).items() if name != "subjects"}
    reads = {"name": region, "deliver_subject": delivered(bucket, region)}
    external = {"api": HOME_API, "deliver": ""}
    return kept | {"mirror": {"name": stream_name(bucket), "external": external, "consumer": reads}}


def delivered(bucket: str, region: str) -> str:
    """Return where a region's mirror has what it reads delivered to."""
    return f"{_MIRROR}.{bucket}.{region}"


def mirror_consumer(bucket: str, *, region: str) -> dict[str, Any]:
    """Return the configuration of the consumer at home that a region's mirror reads with: what servers demand of it."""
    return {
        "name": region,
        "durable_name": region,
        "deliver_subject": delivered(bucket, region),
        "deliver_policy": "all",
        "ack_policy": "flow_control",
        "flow_control": True,
        "idle_heartbeat": _NANOSECONDS,
        "max_ack_pending": _MIRROR_PENDING,
    }


def _stream(bucket: str, *, replicas: int, republish: dict[str, Any]) -> dict[str, Any]:
    return _kept(stream_name(bucket), f"$KV.{bucket}.>", replicas=replicas) | {
        "max_msgs_per_subject": 1,
        "republish": republish,
    }


def _kept(name: str, subject: str, *, replicas: int) -> dict[str, Any]:
    """Return what all streams of keydist have in common: on disk, without limits that lose anything, no deletes."""
    return {
        "name": name,
        "subjects": [subject],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "num_replicas": replicas,
        "max_msg_size": MAX_MESSAGE,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_consumers": -1,
        "allow_direct": True,
        "allow_rollup_hdrs": False,
        "deny_delete": True,
    }


def trail_stream_name(bucket: str) -> str:
    """Return the name of the audit trail's stream beside a bucket."""
    return f"{bucket}-audit"


def trail_subject(bucket: str, node: str) -> str:
    """Return the subject of a node's audit records; `*` for all nodes. It names the bucket: an account may hold two."""
    return f"{TRAIL}.{bucket}.{node}"


def trail_stream(bucket: str, *, replicas: int) -> dict[str, Any]:
    """Return the configuration of the audit trail's stream: all that fits is kept, nothing can be deleted or purged."""
    return _kept(trail_stream_name(bucket), trail_subject(bucket, "*"), replicas=replicas) | {
        "max_msgs_per_subject": -1,
        "max_bytes": TRAIL_BYTES,
        "deny_purge": True,
    }


_WHY: Final[dict[str, str]] = {
    "subjects": "the bucket's own subjects only",
    "mirror": "a mirror of the bucket at home",
    "storage": "file storage, or a restart of the server loses the key",
    "discard": "discard new: nothing that was stored is pushed out",
    "max_msgs_per_subject": "one message a subject in a bucket, all of them in an audit trail",
    "allow_direct": "direct gets, or followers wait while the stream has no leader",
    "allow_rollup_hdrs": "no rollup headers: with them one writer erases everybody's entries",
    "deny_delete": "deletes denied",
    "deny_purge": "purges denied: an audit trail only grows",
    "max_msg_size": "room for a whole keyset, and no more",
    "max_msgs": "no limit that keeps a key out",
    "max_bytes": "none where the key is; one for all else, which could fill the disk and keep a key out",
    "retention": "limits, or reading removes the key",
    "max_age": "the age limit of the design, or keys expire in the store",
    "republish": "change notices republished",
}


def problems(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a stream's configuration, one line each; more replicas than wanted are fine."""
    wrong = [
        f"{name}: found {repr(found.get(name))[:_SHOWN]}, expected {wanted[name]!r} ({why})"
        for name, why in _WHY.items()
        if name in wanted and not _is_as_wanted(name, found.get(name), wanted[name])
    ]
    replicas = found.get("num_replicas", 1)
    if not isinstance(replicas, int) or replicas < wanted["num_replicas"]:
        wrong.append(
            f"num_replicas: found {replicas!r}, expected {wanted['num_replicas']} (a lost disk must not lose the key)"
        )
    return wrong


def _is_as_wanted(name: str, found: object, wanted: object) -> bool:
    if name == "max_bytes" and wanted != -1:  # how large is a question of the disk
        return type(found) is int and found > 0
    return _plain(found) == _plain(wanted)


def _plain(value: object) -> object:
    """Return a value as the server gives it back: it leaves false members out."""
    if isinstance(value, Mapping):
        return {name: item for name, item in value.items() if item}
    return value or None
