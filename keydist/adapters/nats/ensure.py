"""Making a bucket or another stream where it is missing, and checking one that is there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Protocol

from keydist.adapters.nats.answers import (
    NAME_IN_USE,
    NO_CONSUMER,
    NO_PEERS,
    NO_STREAM,
    NOT_CLUSTERED,
    NOT_UNDERSTOOD,
    description,
    error_code,
    parse_answer,
    raise_error,
)
from keydist.adapters.nats.bucket import problems, stream_name
from keydist.adapters.nats.renamed import stream_info
from keydist.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from keydist.adapters.nats.connection import Connection

_CLUSTER_REPLICAS: Final = 3
_SHOWN: Final = 120


class StreamConfig(Protocol):
    """The checked configuration of a bucket's stream; see `bucket`."""

    def __call__(self, bucket: str, *, replicas: int) -> dict[str, Any]:
        """Return it for one bucket."""
        ...


async def ensure_bucket(
    connection: Connection, bucket: str, config: StreamConfig, *, replicas: int | None
) -> tuple[bool, list[str]]:
    """Make or check a bucket; see `ensure_stream`."""
    name = stream_name(bucket)
    return await ensure_stream(connection, name, lambda count: config(bucket, replicas=count), replicas=replicas)


async def ensure_stream(
    connection: Connection, name: str, config: Callable[[int], dict[str, Any]], *, replicas: int | None
) -> tuple[bool, list[str]]:
    """Make or check a stream: whether it was made, and what is wrong with it; `config` gets the replicas.

    `replicas`: None makes three in a cluster, else one. Raises `ConfigError` where the cluster cannot hold them, and
    where servers are too old; some do not say so, and leave out what they do not know: that is wrong with it then.
    """
    info = parse_answer(await stream_info(connection, name).ask())
    if error_code(info) != NO_STREAM:
        raise_error(info)
        found = info.get("config")
        return False, problems(found if isinstance(found, dict) else {}, config(replicas or 1))
    count = replicas or (_CLUSTER_REPLICAS if connection.is_clustered else 1)
    answer = await _create(connection, name, config(count))
    if replicas is None and error_code(answer) == NOT_CLUSTERED:  # a server with a link names a cluster too
        answer = await _create(connection, name, config(1))
    code = error_code(answer)
    if code == NAME_IN_USE:  # somebody else made it meanwhile
        return False, []
    if code in NO_PEERS:
        raise ConfigError(
            f"the NATS cluster cannot hold {count} replicas of {name}",
            found=description(answer),
            fix="start more JetStream servers, or: keydist store init --replicas 1",
        )
    _raise_refused(answer)
    made = answer.get("config")
    return True, problems(made if isinstance(made, dict) else {}, config(count))


async def ensure_consumer(
    connection: Connection, stream: str, name: str, config: dict[str, Any]
) -> tuple[bool, list[str]]:
    """Make or check a durable consumer: whether it was made, and what is wrong. One that is right begins anew.

    Raises `ConfigError` for servers that are too old.
    """
    info = parse_answer(await connection.request(f"$JS.API.CONSUMER.INFO.{stream}.{name}"))
    if error_code(info) != NO_CONSUMER:
        raise_error(info)
        found = info.get("config")
        held = found if isinstance(found, dict) else {}
        wrong = [
            f"consumer {name}: {member}: found {repr(held.get(member))[:_SHOWN]}, expected {wanted!r}"
            for member, wanted in config.items()
            if held.get(member) != wanted
        ]
        if not wrong:
            subject = f"$JS.API.CONSUMER.RESET.{stream}.{name}"
            raise_error(parse_answer(await connection.request(subject, json.dumps({"seq": 1}).encode())))
        return False, wrong
    asked = {"stream_name": stream, "config": config, "action": "create"}
    subject = f"$JS.API.CONSUMER.CREATE.{stream}.{name}"
    _raise_refused(parse_answer(await connection.request(subject, json.dumps(asked).encode())))
    return True, []


def _raise_refused(answer: dict[str, Any]) -> None:
    if error_code(answer) == NOT_UNDERSTOOD:
        raise ConfigError(
            "this nats-server does not know what it is asked for",
            expected="nats-server 2.14 or later at home and in each region",
            found=description(answer),
            fix="upgrade its servers: docs/nats.md",
        )
    raise_error(answer)


async def _create(connection: Connection, name: str, config: dict[str, Any]) -> dict[str, Any]:
    return parse_answer(await connection.request(f"$JS.API.STREAM.CREATE.{name}", json.dumps(config).encode()))
