"""Services take the signing key by `LoadCredential=` from a real agent, under a real systemd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from integration.machine import NATS_SERVER, PYTHON, PYTHONPATH, Machine, skip_unless_possible
from keydist.core.token import format_token
from tests.material import TOKEN

_REPOSITORY: Final = Path(__file__).parent.parent
_SOCKET: Final = "/run/keydist/creds.sock"
_CONFIG: Final = """
cluster: test
node: machine
role: leader
key: {alg: ES256}
credentials:
- {unit: web.service, names: [signing-key, jwks]}
- {unit: jwks@*.service, names: [jwks]}
"""
# The agent's unit is the one that is shipped, but for what it starts.
_AGENT: Final = f"""
[Service]
Environment=PYTHONPATH={PYTHONPATH}
ExecStart=
ExecStart={PYTHON} -m keydist agent
RestartSec=1s
"""
_CONSUMER: Final = """
[Service]
Type=oneshot
RemainAfterExit=yes
LoadCredential={name}:{socket}
ExecStart=/bin/sh -c 'cat "$CREDENTIALS_DIRECTORY/{name}" >/run/got.%n'
"""
_CONSUMERS: Final = {"web": "signing-key", "other": "signing-key", "token": "token", "jwks": "jwks", "jwks@a": "jwks"}
_NATS: Final = f"""
[Service]
ExecStart={NATS_SERVER} --jetstream --addr 127.0.0.1 --store_dir /run/nats
"""

pytestmark = pytest.mark.timeout(120)


def consumer(name: str = "signing-key") -> str:
    return _CONSUMER.format(name=name, socket=_SOCKET)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    skip_unless_possible()
    units = "/etc/systemd/system"
    files: dict[str, str | bytes] = {
        "/usr/lib/sysusers.d/keydist.conf": (_REPOSITORY / "systemd/keydist.sysusers").read_text("utf-8"),
        "/etc/keydist/keydist.yaml": _CONFIG,
        "/etc/keydist/token": format_token(TOKEN).encode(),
        f"{units}/keydist.service": (_REPOSITORY / "systemd/keydist.service").read_text("utf-8"),
        f"{units}/keydist.service.d/agent.conf": _AGENT,
        f"{units}/nats.service": _NATS,
        **{f"{units}/{unit}.service": consumer(name) for unit, name in _CONSUMERS.items()},
    }
    with Machine(tmp_path_factory.mktemp("machine"), files=files) as made:
        made.run("systemd-sysusers")
        yield made


@pytest.fixture
def agent(machine: Machine) -> Iterator[Machine]:
    """A machine whose agent has no key yet: it starts, and NATS is down."""
    machine.run("systemctl", "start", "--no-block", "keydist")
    machine.until(lambda: machine.run("test", "-S", _SOCKET, check=False).returncode == 0, "the socket")
    yield machine
    machine.run("systemctl", "stop", "keydist", "nats", *(f"{unit}.service" for unit in _CONSUMERS))
    machine.run("systemctl", "reset-failed")
    machine.run("sh", "-c", "rm -rf /run/nats /run/got.* /var/lib/keydist/*")


@pytest.fixture
def agent_with_key(agent: Machine) -> Machine:
    make_key(agent)
    return agent


def make_key(machine: Machine) -> None:
    machine.run("systemctl", "start", "nats")
    machine.until(lambda: state(machine, "keydist") == "active", "the agent to have a key")


def state(machine: Machine, unit: str) -> str:
    return machine.show(unit, "ActiveState")["ActiveState"]


def got(machine: Machine, unit: str) -> bytes | None:
    """Return what a consumer was given; None where it was never started."""
    return machine.read(f"/run/got.{unit}.service")


def has_failed(machine: Machine, unit: str) -> bool:
    """Tell whether a consumer failed for its credentials, and its program was never started."""
    shown = machine.show(unit, "ActiveState", "ExecMainStatus")
    return shown == {"ActiveState": "failed", "ExecMainStatus": "243"} and got(machine, unit) is None


def start_waiting(machine: Machine, unit: str) -> None:
    """Start a consumer, and return when its service manager has asked the agent."""
    machine.run("systemctl", "start", "--no-block", unit)
    machine.until(lambda: f"/unit/{unit}.service/" in machine.run("cat", "/proc/net/unix").stdout, f"{unit} to ask")


def test_an_allowed_service_starts_with_exactly_the_key_of_the_disk(agent_with_key: Machine) -> None:
    machine = agent_with_key
    machine.run("systemctl", "start", "web", "jwks@a")
    assert got(machine, "web") == machine.read("/var/lib/keydist/live/signing-key.pem") != b""
    assert got(machine, "jwks@a") == machine.read("/var/lib/keydist/live/jwks.json") != b""


@pytest.mark.parametrize("unit", ["other", "token", "jwks"])
def test_a_service_that_is_not_allowed_fails_and_never_starts(agent_with_key: Machine, unit: str) -> None:
    agent_with_key.run("systemctl", "start", unit, check=False)
    assert has_failed(agent_with_key, unit)


def test_a_service_that_is_started_before_there_is_a_key_waits_for_it(agent: Machine) -> None:
    start_waiting(agent, "web")
    assert (state(agent, "web"), got(agent, "web")) == ("activating", None)
    make_key(agent)
    agent.until(lambda: state(agent, "web") == "active", "the consumer to start")
    assert got(agent, "web") == agent.read("/var/lib/keydist/live/signing-key.pem") != b""


def test_a_service_that_waits_for_an_agent_that_is_killed_fails_and_never_starts(agent: Machine) -> None:
    start_waiting(agent, "web")
    agent.run("systemctl", "kill", "--signal=KILL", "keydist")
    agent.until(lambda: state(agent, "web") == "failed", "the consumer to fail")
    assert has_failed(agent, "web")


def test_without_an_agent_a_service_fails_and_never_starts(agent: Machine) -> None:
    agent.run("systemctl", "stop", "keydist")
    agent.run("systemctl", "start", "web", check=False)
    assert has_failed(agent, "web")


def test_a_reload_of_the_agent_fails_no_service(agent_with_key: Machine) -> None:
    machine = agent_with_key
    machine.run("sh", "-c", "for n in 1 2 3; do systemctl reload --no-block keydist; systemctl restart web; done")
    assert state(machine, "web") == "active"
    assert got(machine, "web") == machine.read("/var/lib/keydist/live/signing-key.pem") != b""
