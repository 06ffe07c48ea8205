"""How soon a waiting fleet has the key: followers as tasks on one server when the leader publishes, p50, p99, last.

Every follower runs the bootstrap service with a connection and a state directory of its own, durable writes
included. Time counts from the leader's write. Target: the last of 200 within 2.5 s.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from keydist.adapters.clock import SystemClock
from keydist.adapters.disk.archive import Layout
from keydist.adapters.disk.keyset_disk import PosixKeysetDisk
from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.entropy import SystemEntropy
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.store import NatsKeysetStore
from keydist.adapters.retry import TenacityRetry
from keydist.core.accept import Demands
from keydist.core.envelope import Place
from keydist.core.policy import Policy
from keydist.core.restart import Role
from keydist.core.token import BootstrapToken, generate_token
from keydist.services.bootstrap import bootstrap
from keydist.services.genesis import Beginning, first_envelope
from keydist.services.node import Node
from keydist.services.reconcile import Genesis

FOLLOWERS = int(os.environ.get("BENCH_FOLLOWERS", "200"))
TARGET_SECONDS = 2.5
PATIENCE_SECONDS = 60.0
PLACE = Place(cluster="bench", location="KV/keydist/signing-key")


class Silence:
    """A notifier that tells nobody."""

    def waiting(self, what: str, *, seconds_left: float) -> None:
        """Say nothing."""


async def nobody() -> None:
    """Answer that no live node holds a keyset."""


async def never() -> bytes:
    """Stand where a leader makes a first envelope: followers never do."""
    raise AssertionError


async def follow(number: int, root: Path, url: str, token: BootstrapToken) -> tuple[float, str]:
    """Wait for the key as one follower; return when (monotonic) it was durable, and its kid."""
    store = NatsKeysetStore(
        Connection(Server(urls=(url,), node=f"node-{number}")), bucket="keydist", entry="signing-key"
    )
    layout = Layout(sealed=False, gid=None, place=PLACE)
    node = Node(
        store=store,
        disk=PosixKeysetDisk(str(root / f"state-{number}"), str(root / "run"), layout),
        clock=SystemClock(),
        demands=Demands(place=PLACE, tokens=(token,)),
        role=Role.FOLLOWER,
    )
    try:
        outcome = await bootstrap(
            node,
            node.disk.load((token,)),
            genesis=Genesis(ask_living=nobody, first_envelope=never),
            retry=TenacityRetry(node.clock),
            notifier=Silence(),
            seconds=PATIENCE_SECONDS,
        )
        return time.monotonic(), outcome.held.keyset.active.kid
    finally:
        await store.close()


async def measure(root: Path, url: str) -> list[float]:
    """Return the seconds from the leader's write to each follower's durable key."""
    token = generate_token(os.urandom)
    beginning = Beginning(place=PLACE, token=token, policy=Policy(), alg="RS256", bits=3072)
    envelope = await first_envelope(beginning, entropy=SystemEntropy(), clock=SystemClock())
    store = NatsKeysetStore(Connection(Server(urls=(url,), node="leader")), bucket="keydist", entry="signing-key")
    await store.create_bucket()
    tasks = [asyncio.create_task(follow(number, root, url, token)) for number in range(FOLLOWERS)]
    await asyncio.sleep(4.0)  # every follower is connected and in its longest pauses
    start = time.monotonic()
    await store.write_first(envelope)
    found = await asyncio.gather(*tasks)
    await store.close()
    if len({kid for _, kid in found}) != 1:
        sys.exit("more than one kid")
    return sorted(at - start for at, _ in found)


def main() -> None:
    """Measure and print; exit 1 where the target is missed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8 * FOLLOWERS)), hard))
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedServer(Path(directory) / "nats")
        server.start()
        try:
            times = asyncio.run(measure(Path(directory), server.url))
        finally:
            server.stop()
    p99 = times[min(len(times) - 1, round(0.99 * len(times)))]
    met = times[-1] <= TARGET_SECONDS
    print(
        f"{FOLLOWERS} waiting followers: p50 {statistics.median(times) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, "
        f"last {times[-1] * 1000:.0f} ms (target {TARGET_SECONDS} s, {'met' if met else 'MISSED'})"
    )
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
