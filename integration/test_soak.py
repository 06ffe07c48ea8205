"""Agents that reconnect every few seconds: memory, descriptors and threads stay, the server keeps nothing of them.

`KEYDIST_TEST_SOAK_SECONDS` says for how long (default 15); ten minutes were run before a release.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from integration.nodes import Node
from integration.server_process import ReservedPort
from keydist.adapters.embedded import EmbeddedServer

SECONDS = float(os.environ.get("KEYDIST_TEST_SOAK_SECONDS", "15"))
UP_SECONDS = 2.5
AGENTS = 3
MONITOR = "http: 127.0.0.1:{port}\n"


class Use(NamedTuple):
    """What a process uses."""

    kib: int
    descriptors: int
    threads: int


def used(pid: int) -> Use:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines())
    return Use(
        kib=int(status["VmRSS"].split()[0]),
        descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        threads=int(status["Threads"]),
    )


@pytest.fixture
def monitored(tmp_path: Path) -> Iterator[tuple[EmbeddedServer, str]]:
    port = ReservedPort()
    server = EmbeddedServer(tmp_path / "nats", extra=MONITOR.format(port=port.number))
    server.start()
    yield server, f"http://127.0.0.1:{port.number}"
    server.stop()
    port.release()


def start(node: Node) -> subprocess.Popen[bytes]:
    """Start an agent with a heartbeat and a resync of seconds."""
    arguments = node.command()
    path = Path(arguments[arguments.index("--config") + 1])
    settings = json.loads(path.read_text(encoding="utf-8")) | {"heartbeat": "2s", "resync": "2s"}
    path.write_text(json.dumps(settings), encoding="utf-8")
    with (node.directory / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "keydist", "agent", "--config", str(path)], stderr=log, stdin=subprocess.DEVNULL
        )


def look(url: str, path: str) -> Any:  # noqa: ANN401 - JSON
    with urllib.request.urlopen(f"{url}/{path}", timeout=5) as answer:  # noqa: S310 - our own server
        return json.load(answer)


@pytest.mark.timeout(SECONDS + 120)
def test_reconnecting_for_long_leaves_nothing_behind(tmp_path: Path, monitored: tuple[EmbeddedServer, str]) -> None:
    server, url = monitored
    nodes = [
        Node(directory=tmp_path / f"n{n}", url=server.url, bucket="keydist", role="leader" if n == 0 else "follower")
        for n in range(AGENTS)
    ]
    agents = [start(node) for node in nodes]
    try:
        wait_for(lambda: all(node.load().held is not None for node in nodes))
        cycle(server, 3)  # what is loaded late is loaded now
        before = [used(agent.pid) for agent in agents]
        cycle(server, round(SECONDS / UP_SECONDS))
        wait_for(lambda: look(url, "connz?subs=1")["num_connections"] == AGENTS)
        after = [used(agent.pid) for agent in agents]
        connections = look(url, "connz?subs=1")["connections"]
        consumers = sum(
            stream["state"]["consumer_count"]
            for account in look(url, "jsz?streams=true")["account_details"]
            for stream in account["stream_detail"]
        )
    finally:
        for agent in agents:
            agent.terminate()
        codes = [agent.wait(10) for agent in agents]
    print([*zip(before, after, strict=True)], [len(one["subscriptions_list"]) for one in connections])
    assert codes == [0] * AGENTS
    assert consumers == 0
    assert all(len(one["subscriptions_list"]) <= 4 for one in connections), connections
    for sooner, later in zip(before, after, strict=True):
        assert later.descriptors <= sooner.descriptors + 1
        assert later.threads == sooner.threads
        assert later.kib - sooner.kib < 3072
    held = [node.load().held for node in nodes]
    assert all(one == held[0] for one in held)


def cycle(server: EmbeddedServer, times: int) -> None:
    """Restart the server so many times; every connection breaks."""
    for _ in range(times):
        server.stop()
        server.start()
        time.sleep(UP_SECONDS)


def wait_for(true: Any) -> None:  # noqa: ANN401 - a question
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)
