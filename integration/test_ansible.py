"""The Ansible role and its playbooks over ssh, on machines with a real systemd: from nothing to a key; an upgrade."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from integration.machine import skip_unless_possible
from integration.machine_cluster import LEADER, NATS, make_buckets, nats_files, write_configurations
from integration.machines import Machines
from integration.units import TOKEN_FILE, Node
from keydist.core.token import format_token
from tests.material import TOKEN

_ANSIBLE: Final = Path(__file__).parent.parent / "package/ansible"
_FOLLOWER: Final = "eu-b"
_CREDENTIALS: Final = ("user.nk", "server-ca.pem")
_SSHD: Final = """
[Service]
RuntimeDirectory=sshd
ExecStart=/usr/sbin/sshd -D -o HostKey=/root/ssh/host -o AuthorizedKeysFile=/root/ssh/user.pub -o StrictModes=no
"""
_SSHD_WANTED: Final = "[Unit]\nWants=test-sshd.service\n"

pytestmark = pytest.mark.timeout(300)


def skip_without_ansible() -> None:
    """Skip the test where the programs are missing, with the reason; fail where `KEYDIST_REQUIRE_SYSTEMD=1`."""
    missing = [name for name in ("ansible-playbook", "ssh", "sshd") if shutil.which(name) is None]
    why = f"no {', '.join(missing)}: apt-get install --no-install-recommends ansible-core openssh-server"
    if missing and os.environ.get("KEYDIST_REQUIRE_SYSTEMD") == "1":
        pytest.fail(why)
    elif missing:
        pytest.skip(why)


class Controller:
    """Where playbooks are run: a directory of this machine, with an inventory as the example's."""

    def __init__(self, directory: Path, machines: Machines, package: Path) -> None:
        self._directory = directory
        self._machines = machines
        self.nodes = {name: Node(machines[name]) for name in (LEADER, _FOLLOWER)}
        config = {
            "cluster": "test",
            "node": "{{ inventory_hostname }}",
            "role": "{{ 'leader' if inventory_hostname in groups['keydist_leaders'] else 'follower' }}",
            "token_file": TOKEN_FILE,
            "key": {"alg": "ES256"},
            "nats": {
                "servers": ["tls://nats:4222"],
                "nkey_file": "nats/user.nk",
                "tls": {"ca_file": "nats/server-ca.pem"},
            },
        }
        self.variables: dict[str, Any] = {
            "keydist_deb": str(package),
            "keydist_config": config,
            "keydist_token": format_token(TOKEN),
            "keydist_nats_files": {
                name: f"{directory}/pki/{{{{ inventory_hostname }}}}/{name}" for name in _CREDENTIALS
            },
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_ssh_private_key_file": str(directory / "user"),
        }

    def play(self, playbook: str, *options: str, **variables: object) -> dict[str, dict[str, int]]:
        """Run a playbook, which must succeed, and return what it counted for each machine."""
        done = self.try_to_play(playbook, *options, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        counted = re.findall(r"^(\S+) +: (ok=.*)$", done.stdout, re.MULTILINE)
        return {name: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", row)} for name, row in counted}

    def try_to_play(self, playbook: str, *options: str, **variables: object) -> subprocess.CompletedProcess[str]:
        """Run a playbook; its secrets are in no argument and in nothing that it prints."""
        hosts = {name: {"ansible_host": self._machines.address(name)} for name in self.nodes}
        groups = {"keydist_leaders": {"hosts": {LEADER: hosts[LEADER]}}}
        groups["keydist_followers"] = {"hosts": {_FOLLOWER: hosts[_FOLLOWER]}}
        tree = {"all": {"children": {"keydist": {"children": groups, "vars": self.variables | variables}}}}
        inventory = self._directory / "inventory.json"
        inventory.write_text(json.dumps(tree), encoding="utf-8")
        environ = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self._directory),
            "ANSIBLE_HOST_KEY_CHECKING": "False",
            "ANSIBLE_PIPELINING": "True",
            "ANSIBLE_NOCOLOR": "True",
            "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=10s -o LogLevel=ERROR",
        }
        command = [*self._machines.enter, "ansible-playbook", "-i", str(inventory), str(_ANSIBLE / playbook), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, env=environ)
        assert format_token(TOKEN) not in done.stdout + done.stderr
        return done


@pytest.fixture(scope="module")
def controller(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    skip_unless_possible()
    skip_without_ansible()
    directory = tmp_path_factory.mktemp("ansible")
    write_configurations(directory / "pki", "--no-client-certificates", followers=[_FOLLOWER])
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / key)], check=True)
    bare: dict[str, str | bytes] = {
        "/root/ssh/host": (directory / "host").read_bytes(),
        "/root/ssh/user.pub": (directory / "user.pub").read_bytes(),
        "/etc/systemd/system/test-sshd.service": _SSHD,
        "/etc/systemd/system/machine.target.d/sshd.conf": _SSHD_WANTED,
    }
    files = {NATS: nats_files(directory / "pki"), LEADER: bare, _FOLLOWER: bare}
    with Machines(directory / "machines", files) as machines:
        for name in (LEADER, _FOLLOWER):
            machines[name].remove("/var/lib/man-db/auto-update")  # an index of all manuals takes a while
        make_buckets(machines[NATS])
        yield Controller(directory, machines, package)


def test_from_bare_machines_to_a_key_and_the_second_time_nothing_changes(controller: Controller) -> None:
    tried = controller.play("site.yml", "--check", "--diff", "--limit", _FOLLOWER)
    assert tried[_FOLLOWER]["changed"] > 0
    assert controller.nodes[_FOLLOWER].machine.read(TOKEN_FILE) is None
    made = controller.play("site.yml", "--diff")
    assert all(row["changed"] > 0 for row in made.values())
    [_] = {node.kid for node in controller.nodes.values()}
    for node in controller.nodes.values():
        stat = node.machine.run("stat", "--format=%a %U", TOKEN_FILE, "/etc/keydist/nats/user.nk").stdout
        assert stat == "400 keydist\n400 keydist\n"
        assert format_token(TOKEN) not in node.machine.run("journalctl", "--output=cat").stdout
        assert node.machine.run("systemctl", "is-enabled", "keydist").stdout == "enabled\n"
    assert controller.play("site.yml", "--limit", LEADER)[LEADER]["changed"] == 0


def test_another_setting_reloads_the_agent_and_one_that_is_refused_changes_nothing(controller: Controller) -> None:
    node = controller.nodes[_FOLLOWER]
    agent, before = node.pid("keydist"), node.machine.read("/etc/keydist/keydist.yaml")
    config = controller.variables["keydist_config"]
    only = ("--limit", _FOLLOWER, "--start-at-task", "keydist : Write the configuration")
    refused = controller.try_to_play("site.yml", *only, keydist_config=config | {"heartbeet": "20s"})
    assert refused.returncode == 2
    assert "heartbeat" in refused.stdout + refused.stderr
    assert node.machine.read("/etc/keydist/keydist.yaml") == before
    changed = controller.play("site.yml", "--limit", _FOLLOWER, keydist_config=config | {"heartbeat": "20s"})
    assert changed[_FOLLOWER]["changed"] == 2  # the file, and the reload
    assert node.pid("keydist") == agent
    controller.variables["keydist_config"] = config | {"heartbeat": "20s"}


def test_an_upgrade_takes_one_node_after_the_other(controller: Controller, tmp_path: Path) -> None:
    newer = newer_package(Path(controller.variables["keydist_deb"]), tmp_path)
    agents = {name: node.pid("keydist") for name, node in controller.nodes.items()}
    kids = {node.kid for node in controller.nodes.values()}
    controller.play("upgrade.yml", keydist_deb=str(newer))
    started = {}
    for name, node in controller.nodes.items():
        assert node.machine.run("dpkg-query", "--show", "--showformat=${Version}", "keydist").stdout == "99"
        node.until_restarted(agents[name])
        started[name] = int(node.machine.show("keydist", "ActiveEnterTimestampMonotonic").popitem()[1])
    assert started[_FOLLOWER] < started[LEADER]
    assert {node.kid for node in controller.nodes.values()} == kids


def newer_package(package: Path, directory: Path) -> Path:
    """Return the same package under a higher version."""
    tree, made = directory / "tree", directory / "keydist_99.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(tree)], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub("^Version: .*$", "Version: 99", control.read_text("utf-8"), flags=re.MULTILINE))
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(tree), str(made)], check=True)
    return made
