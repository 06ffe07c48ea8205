"""The shipped units under a real systemd: tokens that come and go, sealed ones, nodes without an agent, reloads.

What whole machines go through (first boots, reboots, power failures) is in `test_systemd_cluster`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from integration.machine import NATS_SERVER, Machine, skip_unless_possible
from integration.units import STATE, SYSTEMD, TOKEN_FILE, Node, installed
from keydist.core.token import format_token
from tests.material import OTHER_TOKEN, TOKEN

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
_UNITS: Final = ("web", "keydist-ready.target", "keydist-wait-ready", "keydist-token.path", "keydist", "nats")
_OTHER_UNITS: Final = ("keydist-bootstrap", "keydist-reload@web.path")
_LEFT: Final = ("/var/lib/nats", "/etc/credstore.encrypted", "/etc/systemd/system/keydist.service.d")

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    skip_unless_possible()
    files = installed(_CONFIG) | {"/usr/lib/systemd/system/nats.service": _NATS}
    with Machine(tmp_path_factory.mktemp("machine"), files=files, patient=False) as made:
        yield made


@pytest.fixture
def node(machine: Machine) -> Iterator[Node]:
    """A node with neither a key nor a token nor a NATS; its agent waits."""
    yield Node(machine)
    machine.run("systemctl", "unmask", "--quiet", "keydist.service")
    machine.run("systemctl", "stop", *_UNITS, *_OTHER_UNITS)
    machine.run("systemctl", "reset-failed")
    machine.run("sh", "-c", "rm -rf /run/keydist/* /run/web.reloads")
    for path in (STATE, TOKEN_FILE, *_LEFT):
        machine.remove(path)
    machine.write("/etc/keydist/keydist.yaml", _CONFIG)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "--no-block", "keydist", "web")


@pytest.fixture
def healed(node: Node) -> Node:
    """A node where everything runs."""
    node.put_token(TOKEN)
    start_nats(node)
    node.until_active("keydist", "web")
    return node


def start_nats(node: Node) -> None:
    node.machine.run("systemctl", "start", "nats")


def test_a_node_that_has_its_keyset_starts_without_its_token(healed: Node) -> None:
    node, machine = healed, healed.machine
    kid = node.kid
    machine.run("rm", TOKEN_FILE)
    machine.reboot()
    node.until_active("keydist", "web")
    assert node.kid == kid
    machine.until(lambda: "token" in node.status("keydist"), "the alarm")


def test_another_token_file_starts_the_agent_again(healed: Node) -> None:
    node, agent = healed, healed.pid("keydist")
    node.put_token(TOKEN, OTHER_TOKEN)
    node.until_restarted(agent)
    log = node.machine.run("journalctl", "--unit=keydist", "--output=cat").stdout
    assert format_token(TOKEN) not in log
    assert node.state("web") == "active"


def test_a_sealed_token_is_taken_instead_of_a_file(healed: Node) -> None:
    node, machine = healed, healed.machine
    sealed = "/etc/credstore.encrypted/keydist.token"
    machine.run("install", "-d", "-m", "0700", str(Path(sealed).parent))
    machine.run("systemd-creds", "encrypt", "--with-key=host", "--name=keydist.token", TOKEN_FILE, sealed)
    machine.run("rm", TOKEN_FILE)
    drop_in = (SYSTEMD / "drop-ins/sealed-token.conf").read_text("utf-8")
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
    start_nats(node)
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
    start_nats(node)
    node.until_active("keydist", ready)
    machine.run("rm", TOKEN_FILE)
    machine.reboot()
    machine.until(lambda: "an empty token" in node.status("keydist"), "the agent to say what it lacks")
    assert (node.state("keydist"), node.state(ready)) == ("activating", "inactive")
    node.put_token(TOKEN)
    node.until_active("keydist", ready)
    assert node.state("nats") == "inactive"
    assert machine.read("/run/keydist/signing-key.pem")
