"""What an operator does after a catastrophe, until NATS is well: start what is down, start again what stays ill."""

from __future__ import annotations

import asyncio
from typing import Final

import nats.errors

from integration.cluster import Cluster

_TRIES: Final = 2
_SECONDS: Final = 20.0


def heal(cluster: Cluster, *, servers: int = 3) -> list[str]:
    """Bring all servers back to health, with the buckets; return what it took beside that, none where all is as usual.

    A server whose copy of a stream contradicts the others' (it was put back alone) may need another start, and where
    no two agree, everything must be begun anew, of one version: servers of two versions, all of them empty, were once
    not whole after half a minute. keydist does not mind: a leader puts the keyset back.
    """
    took: list[str] = []
    for number in range(servers):
        cluster.start_server(number)
    for _ in range(_TRIES):
        ill = [number for number in range(servers) if not _is_well(cluster, number)]
        if not ill:
            break
        for number in ill:
            cluster.kill(number)
            cluster.start_server(number)
            took.append("started again")
    if _has_buckets(cluster) and all(_is_well(cluster, number) for number in range(servers)):
        return took
    for number in range(servers):
        cluster.use(number, None)
    cluster.wipe_all()
    asyncio.run(cluster.make_buckets())
    return [*took, "begun anew"]


def _is_well(cluster: Cluster, number: int) -> bool:
    try:
        cluster.wait_healthy(number, seconds=_SECONDS)
    except AssertionError:
        return False
    return True


def _has_buckets(cluster: Cluster) -> bool:
    try:
        asyncio.run(cluster.make_buckets())
    except (AssertionError, OSError, nats.errors.Error):
        return False
    return True
