"""`keydist doctor` beside agents that run: what it sees of them, of their hooks, and of the fleet."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keydist import __version__
from keydist.adapters.embedded import EmbeddedServer
from tests.unit.agent_host import KEYDIST, Host, eventually

Install = Callable[..., Host]


@pytest.fixture
def install(tmp_path: Path, nats_server: EmbeddedServer, bucket: str) -> Iterator[Install]:
    hosts: list[Host] = []

    def make(name: str, **settings: Any) -> Host:  # noqa: ANN401 - configuration
        hosts.append(Host(tmp_path / name, nats_server.url, bucket, **settings))
        return hosts[-1]

    yield make
    for host in hosts:
        for process in host.processes:
            process.end()


def examine(host: Host, *names: str) -> dict[str, dict[str, Any]]:
    """Return what each check finds on a host; nothing of it may be secret."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("KEYDIST_")}
    done = subprocess.run(
        [*KEYDIST, "doctor", "--json", "--config", str(host.config), *names],
        env=environ, capture_output=True, text=True, check=False, timeout=50,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert not [secret for secret in host.secrets() if secret in done.stdout + done.stderr]
    found = {one["name"]: one for one in json.loads(done.stdout)["checks"]}
    assert (done.returncode == 0) == all(one["ok"] for one in found.values())
    return found


def level(host: Host, name: str) -> str:
    found: str = examine(host, name)[name]["level"]
    return found


def test_a_fleet_that_is_well_and_one_of_its_nodes_is_killed(install: Install) -> None:
    leader, follower = install("lead", hooks=[{"run": ["/bin/true"]}]), install("b", role="follower")
    leader.start().wait_for("READY=1")
    process = follower.start()
    process.wait_for("READY=1")
    eventually(lambda: level(leader, "hooks") == "ok")
    eventually(lambda: level(leader, "fleet") == level(leader, "agent") == "ok", within=20)
    well = ("token", "state", "keyset", "runtime", "store", "permissions", "records", "audit", "agent", "fleet")
    found = examine(leader, *well)
    assert {name: one["level"] for name, one in found.items()} == dict.fromkeys(found, "ok"), found
    assert __version__ in found["agent"]["detail"]
    assert "2 nodes" in found["fleet"]["detail"]
    mine = examine(follower, "agent", "fleet", "store")
    assert {name: one["level"] for name, one in mine.items()} == {"agent": "ok", "fleet": "unseen", "store": "ok"}
    process.process.kill()
    process.process.wait()
    eventually(lambda: level(leader, "fleet") == "fail", within=20)
    assert "b (" in examine(leader, "fleet")["fleet"]["detail"]
    assert level(follower, "agent") == "fail"  # its socket is still there


def test_a_hook_that_fails_is_told_while_an_agent_runs(install: Install) -> None:
    host = install("lead", hooks=[{"run": ["/bin/false"], "retries": 0}])
    host.start().wait_for("READY=1")
    found = examine(host, "hooks")["hooks"]
    assert found["level"] == "fail"
    assert "/bin/false" in found["detail"]
    eventually(lambda: "hook-failed" in examine(host, "agent")["agent"]["detail"])
