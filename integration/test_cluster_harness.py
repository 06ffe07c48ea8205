"""The harness itself: servers that lose everything, stand alone, and never outlive who started them."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

from integration.accounts import OPERATOR
from integration.cluster import Cluster
from keydist.core.entry import Absence, Absent, Stored


def test_a_wiped_cluster_has_no_buckets(tmp_path: Path) -> None:
    async def seen(cluster: Cluster) -> Stored | Absent:
        async with cluster.store("lead-1") as store:
            return await store.read(from_leader=True)

    with Cluster(tmp_path) as cluster:
        urls = cluster.urls
        asyncio.run(cluster.make_buckets())
        assert asyncio.run(seen(cluster)) == Absent(why=Absence.NEVER_WRITTEN)
        cluster.wipe_all()
        assert cluster.urls == urls
        assert asyncio.run(seen(cluster)) == Absent(why=Absence.BUCKET_MISSING)
        asyncio.run(cluster.make_buckets())
        assert asyncio.run(seen(cluster)) == Absent(why=Absence.NEVER_WRITTEN)


def test_a_lone_server_is_a_cluster_too(tmp_path: Path) -> None:
    with Cluster(tmp_path, servers=1, sync_interval="always", followers=["a"]) as cluster:
        asyncio.run(cluster.make_buckets())
        assert cluster.stream_leader() == 0
        assert cluster.node("lead-1").run()["outcome"] == "generated"
        assert cluster.node("a").run()["outcome"] == "retrieved"
        assert cluster.connections(0) == 0
        assert cluster.cpu_seconds(0) > 0
        for name in (OPERATOR, "lead-1", "a"):
            assert stat.S_IMODE(Path(cluster.nkey_file(name)).stat().st_mode) == 0o600


STARTS_SERVERS = """
import pathlib, sys, time
from integration.cluster import Cluster
cluster = Cluster(pathlib.Path(sys.argv[1]))
cluster.start()
print(*cluster.server_pids, flush=True)
time.sleep(60)
"""


def test_no_server_outlives_who_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTS_SERVERS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as starting:
        assert starting.stdout is not None
        servers = [int(pid) for pid in starting.stdout.readline().split()]
        assert len(servers) == 3
        starting.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while any(map(is_running, servers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [server for server in servers if is_running(server)]
    for server in left:
        os.kill(server, signal.SIGKILL)
    assert left == []


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
