"""The shipped units under a real systemd: a first boot heals by itself, and who needs the key outlives the agent."""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from integration.machine import NATS_SERVER, PYTHON, PYTHONPATH, Machine, skip_unless_possible
from keydist.core.token import BootstrapToken, format_token
from tests.material import OTHER_TOKEN, TOKEN

_SYSTEMD: Final = Path(__file__).parent.parent / "systemd"
_CONFIG: Final = """
cluster: test
node: machine
role: leader
key: {alg: ES256}
"""
_NATS: Final = f"""
[Service]
ExecStart={NATS_SERVER} --jetstream --addr 127.0.0.1 --store_dir /var/lib/nats
"""
_WEB: Final = """
[Unit]
Requires=keydist-ready.target
After=keydist-ready.target
[Service]
Type=exec
ExecStart=/bin/sh -c 'test -s /var/lib/keydist/live/signing-key.pem && exec sleep infinity'
ExecReload=/bin/sh -c 'echo reloaded >>/run/web.reloads'
"""
# What the package's postinst does; the target is what the machine boots to.
_USERS: Final = """
[Unit]
DefaultDependencies=no
Before=basic.target
[Service]
Type=oneshot
ExecStart=systemd-sysusers
ExecStart=systemd-tmpfiles --create keydist.conf
"""
_BOOT: Final = "[Unit]\nWants=users.service keydist.service web.service\n"

pytestmark = pytest.mark.timeout(180)


class Node:
    """What is looked at in a machine with keydist, and done to it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def state(self, unit: str) -> str:
        return self.machine.show(unit, "ActiveState")["ActiveState"]

    def pid(self, unit: str) -> int:
        return int(self.machine.show(unit, "MainPID")["MainPID"])

    def status(self, unit: str) -> str:
        return self.machine.show(unit, "StatusText")["StatusText"]

    def until_active(self, *units: str) -> None:
        self.machine.until(lambda: all(self.state(unit) == "active" for unit in units), f"{units} to be active")

    def put_token(self, *tokens: BootstrapToken) -> None:
        """Write the token file in one piece, as an administrator does."""
        text = "\\n".join(format_token(token) for token in tokens)
        self.machine.run("sh", "-c", f"umask 077; printf '{text}\\n' >/etc/keydist/new && mv /etc/keydist/new {_TOKEN}")

    def start_nats(self) -> None:
        self.machine.run("systemctl", "start", "nats")

    def as_json(self, *command: str) -> dict[str, Any]:
        """Return what a keydist command, run as its user, prints."""
        done = self.machine.run("runuser", "-u", "keydist", "--", "keydist", *command, "--json", check=False)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    @property
    def kid(self) -> str:
        return str(self.as_json("status", "--offline")["kid"])


_TOKEN: Final = "/etc/keydist/token"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A machine that was just switched on, with neither a token nor a NATS."""
    skip_unless_possible()
    units = "/usr/lib/systemd/system"
    shipped = [path for path in _SYSTEMD.iterdir() if path.suffix in (".service", ".path", ".target")]
    files: dict[str, str | bytes] = {
        **{f"{units}/{path.name}": path.read_text("utf-8") for path in shipped},
        "/usr/lib/sysusers.d/keydist.conf": (_SYSTEMD / "keydist.sysusers").read_text("utf-8"),
        "/usr/lib/tmpfiles.d/keydist.conf": (_SYSTEMD / "keydist.tmpfiles").read_text("utf-8"),
        "/usr/bin/keydist": f'#!/bin/sh\nPYTHONPATH={PYTHONPATH} exec {PYTHON} -m keydist "$@"\n',
        "/etc/keydist/keydist.yaml": _CONFIG,
        f"{units}/nats.service": _NATS,
        f"{units}/web.service": _WEB,
        f"{units}/users.service": _USERS,
        "/etc/systemd/system/machine.target.d/boot.conf": _BOOT,
    }
    with Machine(tmp_path, files=files, patient=False) as made:
        yield Node(made)


@pytest.fixture
def healed(node: Node) -> Node:
    node.put_token(TOKEN)
    node.start_nats()
    node.until_active("keydist", "web")
    return node


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((lambda node: node.put_token(TOKEN), Node.start_nats), id="the token first"),
        pytest.param((Node.start_nats, lambda node: node.put_token(TOKEN)), id="NATS first"),
    ],
)
def test_a_first_boot_without_token_and_nats_heals_as_they_come(
    node: Node, steps: tuple[Callable[[Node], object], ...]
) -> None:
    machine = node.machine
    machine.until(lambda: "an empty token" in node.status("keydist"), "the agent to say what it lacks")
    for step in steps:
        assert (node.state("web"), node.state("keydist-ready.target")) == ("inactive", "inactive")
        assert node.state("keydist") == "activating"
        step(node)
    node.until_active("keydist", "keydist-ready.target", "web")
    assert machine.show("keydist", "NRestarts")["NRestarts"] == "0"
    machine.until(lambda: machine.state() == "running", "everything to have started")


def test_who_needs_the_key_outlives_whatever_happens_to_the_agent(healed: Node) -> None:
    node, machine = healed, healed.machine
    web, agent = node.pid("web"), node.pid("keydist")
    machine.run("systemctl", "restart", "keydist")
    assert node.pid("keydist") not in (0, agent)
    machine.run("systemctl", "kill", "--signal=KILL", "keydist")
    machine.until(lambda: machine.show("keydist", "NRestarts")["NRestarts"] == "1", "the agent to be started again")
    node.until_active("keydist")
    machine.run("systemctl", "reload", "keydist")
    machine.run("systemctl", "stop", "keydist")
    assert node.state("keydist") == "inactive"
    assert (node.state("keydist-ready.target"), node.state("web"), node.pid("web")) == ("active", "active", web)
    machine.run("systemctl", "restart", "web")  # it needs the key, and not the agent
    assert node.state("web") == "active"


def test_a_reboot_and_a_power_failure_keep_the_key_and_need_no_nats(healed: Node) -> None:
    node, machine = healed, healed.machine
    kid = node.kid
    for again in (machine.reboot, machine.cut_power):
        again()
        node.until_active("keydist", "web")
        assert (node.state("nats"), node.kid) == ("inactive", kid)


@pytest.mark.timeout(600)
def test_power_fails_at_any_moment_and_the_key_is_there_again(healed: Node) -> None:
    """`KEYDIST_TEST_POWER_FAILURES` times, by default 3; it prints how long an agent takes to be ready."""
    node, machine, kid = healed, healed.machine, healed.kid
    times = int(os.environ.get("KEYDIST_TEST_POWER_FAILURES", "3"))
    seed = os.environ.get("KEYDIST_TEST_SEED", "1")
    moments = random.Random(seed)
    took = []
    for _ in range(times):
        time.sleep(moments.uniform(0, 2))  # any moment: while it boots, starts the agent, or works
        machine.cut_power()
        if moments.random() < 0.5:  # every other time again before it is ready
            continue
        node.until_active("keydist", "web")
        start = machine.show("keydist", "ActiveEnterTimestampMonotonic")
        took.append(int(start["ActiveEnterTimestampMonotonic"]) / 1e6 - _powered_on(machine))
        assert node.kid == kid, f"seed {seed}"
    node.until_active("keydist", "web")
    assert node.kid == kid, f"seed {seed}"
    if took:
        print(f"from switching on to ready: median {statistics.median(took):.2f} s of {len(took)}, {times} failures")


def _powered_on(machine: Machine) -> float:
    """Return when its service manager began, in seconds of the clock that all machines here share."""
    return int(machine.run("systemctl", "show", "--property=UserspaceTimestampMonotonic", "--value").stdout) / 1e6


def test_a_node_that_has_its_keyset_starts_without_its_token(healed: Node) -> None:
    node, machine = healed, healed.machine
    kid = node.kid
    machine.run("rm", _TOKEN)
    machine.reboot()
    node.until_active("keydist", "web")
    assert node.kid == kid
    machine.until(lambda: "token" in node.status("keydist"), "the alarm")


def test_another_token_file_starts_the_agent_again(healed: Node) -> None:
    node, agent = healed, healed.pid("keydist")
    node.put_token(TOKEN, OTHER_TOKEN)
    node.machine.until(lambda: node.pid("keydist") not in (0, agent), "the agent to be started again")
    node.until_active("keydist")
    log = node.machine.run("journalctl", "--unit=keydist", "--output=cat").stdout
    assert format_token(TOKEN) not in log
    assert node.state("web") == "active"


def test_a_sealed_token_is_taken_instead_of_a_file(healed: Node) -> None:
    node, machine = healed, healed.machine
    sealed = "/etc/credstore.encrypted/keydist.token"
    machine.run("install", "-d", "-m", "0700", str(Path(sealed).parent))
    machine.run("systemd-creds", "encrypt", "--with-key=host", "--name=keydist.token", _TOKEN, sealed)
    machine.run("rm", _TOKEN)
    drop_in = (_SYSTEMD / "drop-ins/sealed-token.conf").read_text("utf-8")
    directory = "/etc/systemd/system/keydist.service.d"
    machine.run("sh", "-c", f"mkdir {directory}; cat >{directory}/sealed-token.conf <<'EOF'\n{drop_in}EOF")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "keydist")
    machine.until(lambda: "healthy" in node.status("keydist"), "an agent without an alarm")
    assert format_token(TOKEN).encode() not in (machine.read(sealed) or b"")
    agent = node.pid("keydist")
    machine.run("touch", sealed)  # as when it is sealed anew
    machine.until(lambda: node.pid("keydist") not in (0, agent), "the agent to be started again")


def test_without_an_agent_a_node_gets_its_key_once_and_the_target_is_reached(node: Node) -> None:
    machine = node.machine
    machine.run("systemctl", "mask", "--now", "keydist.service")
    node.put_token(TOKEN)
    machine.run("systemctl", "start", "--no-block", "keydist-bootstrap")
    machine.until(lambda: node.state("keydist-bootstrap") == "activating", "the bootstrap to wait")
    assert node.state("web") == "inactive"
    node.start_nats()
    node.until_active("web")
    machine.until(lambda: node.state("keydist-bootstrap") == "inactive", "the bootstrap to end")
    assert "keydist" not in machine.run("ls", "/run/credentials").stdout


def test_a_service_is_reloaded_by_a_confined_unit_when_the_keyset_changes(healed: Node) -> None:
    machine = healed.machine
    machine.run("systemctl", "start", "keydist-reload@web.path")
    floor = "/var/lib/keydist/floor.json"
    machine.run("sh", "-c", f"cp -p {floor} {floor}.copy && mv {floor}.copy {floor}")
    machine.until(lambda: machine.read("/run/web.reloads") is not None, "the reload")


def test_a_sealed_keyset_counts_only_once_its_token_is_there(node: Node) -> None:
    machine, ready = node.machine, "keydist-ready.target"
    machine.run("sh", "-c", "echo 'at_rest: sealed' >>/etc/keydist/keydist.yaml")
    machine.run("systemctl", "restart", "--no-block", "keydist")
    node.put_token(TOKEN)
    node.start_nats()
    node.until_active("keydist", ready)
    machine.run("rm", _TOKEN)
    machine.reboot()
    machine.until(lambda: "an empty token" in node.status("keydist"), "the agent to say what it lacks")
    assert (node.state("keydist"), node.state(ready)) == ("activating", "inactive")
    node.put_token(TOKEN)
    node.until_active("keydist", ready)
    assert node.state("nats") == "inactive"
    assert machine.read("/run/keydist/signing-key.pem")
