"""`keydist doctor` on a machine with a real systemd, where an agent runs as its own user: as root, and as that user."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from integration.machine import NATS_SERVER, PYTHON, PYTHONPATH, Machine, skip_unless_possible
from keydist.core.token import format_token
from tests.material import TOKEN

_REPOSITORY: Final = Path(__file__).parent.parent
_UNITS: Final = "/etc/systemd/system"
_CONFIG: Final = """
cluster: test
node: machine
role: leader
key: {alg: ES256}
heartbeat: 1s
"""
# The agent is as confined as the unit that is shipped.
_AGENT: Final = f"""
[Unit]
After=
Wants=
[Service]
Type=notify
WatchdogSec=30s
Environment=PYTHONPATH={PYTHONPATH}
ExecStart=
ExecStart={PYTHON} -m keydist agent
Restart=always
RestartSec=1s
"""
_NATS: Final = f"""
[Service]
ExecStart={NATS_SERVER} --jetstream --addr 127.0.0.1 --store_dir /run/nats
"""
_READY: Final = ("store", "agent", "fleet", "records", "audit")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    skip_unless_possible()
    files: dict[str, str | bytes] = {
        "/usr/lib/sysusers.d/keydist.conf": (_REPOSITORY / "systemd/keydist.sysusers").read_text("utf-8"),
        "/etc/keydist/keydist.yaml": _CONFIG,
        "/etc/keydist/token": format_token(TOKEN).encode(),
        f"{_UNITS}/keydist.service": (_REPOSITORY / "systemd/keydist-bootstrap.service").read_text("utf-8"),
        f"{_UNITS}/keydist.service.d/agent.conf": _AGENT,
        f"{_UNITS}/nats.service": _NATS,
    }
    with Machine(tmp_path_factory.mktemp("machine"), files=files) as booted:
        booted.run("chmod", "0400", "/etc/keydist/token")
        booted.run("systemctl", "start", "nats")
        booted.run("systemctl", "enable", "--quiet", "--now", "keydist")
        yield booted


def examine(machine: Machine, *names: str, user: str = "root") -> dict[str, dict[str, Any]]:
    """Return what each check finds, by name."""
    command = ("env", f"PYTHONPATH={PYTHONPATH}", PYTHON, "-m", "keydist", "doctor", "--json", *names)
    done = machine.run("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command, check=False)
    assert "Traceback" not in done.stderr
    found = {one["name"]: one for one in json.loads(done.stdout)["checks"]}
    assert (done.returncode == 0) == all(one["ok"] for one in found.values())
    return found


def levels(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: one["level"] for name, one in found.items()}


def test_root_sees_all_of_a_node_that_another_user_runs(machine: Machine) -> None:
    machine.until(lambda: set(levels(examine(machine, *_READY)).values()) == {"ok"}, "an agent that runs")
    found = examine(machine)
    expected = dict.fromkeys(found, "ok") | {"excess": "warn", "replicas": "warn", "sync": "unseen"}
    assert levels(found) == expected, found
    assert "from systemd" in found["token"]["detail"]
    assert "keydist.service active, enabled, exposure" in found["units"]["detail"]
    assert "on tmpfs" in found["runtime"]["detail"]


def test_the_nodes_own_user_sees_all_but_the_token(machine: Machine) -> None:
    machine.until(lambda: set(levels(examine(machine, *_READY)).values()) == {"ok"}, "an agent that runs")
    found = examine(machine, user="keydist")
    unseen = {name for name, one in found.items() if one["level"] == "unseen"}
    assert unseen == {"token", "sync", "fleet"}, found
    assert {name for name, one in found.items() if one["level"] == "fail"} == set(), found
    assert found["keyset"]["level"] == found["state"]["level"] == found["units"]["level"] == "ok"


def test_an_agent_that_is_stopped_is_told(machine: Machine) -> None:
    machine.run("systemctl", "stop", "keydist")
    try:
        found = examine(machine, "units", "agent")
        assert found["units"]["level"] == "fail"
        assert "keydist.service does not run" in found["units"]["detail"]
        assert found["agent"]["level"] in ("warn", "fail")
    finally:
        machine.run("systemctl", "start", "keydist")
