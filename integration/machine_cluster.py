"""A cluster of machines under systemd: one with a NATS server, with TLS and accounts, and one for each node.

All are off at first. `start_anew` switches the nodes on; `bring_nats` and `bring_token` are what comes later.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from integration.machine import NATS_SERVER, PYTHON, PYTHONPATH, Machine
from integration.machines import Machines
from integration.opened import Opened
from integration.secured import run_keydist
from integration.units import STATE, TOKEN_FILE, Node, installed
from tests.material import TOKEN

LEADER: Final = "eu-a"
FOLLOWERS: Final = ("eu-b", "eu-c")
NATS: Final = "nats"

_CONFIG: Final = """
cluster: test
node: {name}
role: {role}
key: {{alg: ES256}}
nats:
  servers: [tls://nats:4222]
  nkey_file: nats/user.nk
  tls: {{ca_file: nats/server-ca.pem, cert_file: nats/client.pem, key_file: nats/client.key}}
"""
_NATS: Final = f"""
[Unit]
After=address.service
[Service]
ExecStart={NATS_SERVER} --config /etc/nats/nats-server.conf
"""
_CREDENTIALS: Final = ("user.nk", "server-ca.pem", "client.pem", "client.key")


def write_configurations(pki: Path, *more: str, followers: Iterable[str] = FOLLOWERS) -> None:
    """Write the server's configuration, and the credentials of all, to `pki`."""
    options = ("--server=nats=nats:4222", f"--leader={LEADER}", f"--follower={','.join(followers)}")
    done = run_keydist("store", "config", "--dev-pki", str(pki), *options, *more)
    assert done.returncode == 0, done.stderr


def nats_files(pki: Path) -> dict[str, str | bytes]:
    """Return the files of the machine that starts the server, and where the operator is."""
    written = {"nats": pki / NATS, "operator": pki / "operator"}
    return {
        **{f"/etc/{to}/{path.name}": path.read_bytes() for to, place in written.items() for path in place.iterdir()},
        "/etc/systemd/system/nats.service": _NATS,
        "/etc/systemd/system/machine.target.d/nats.conf": "[Unit]\nWants=nats.service\n",
    }


def make_buckets(machine: Machine) -> None:
    """Make the buckets, on the machine with the server, as soon as it takes clients."""
    keydist = ("env", f"PYTHONPATH={PYTHONPATH}", PYTHON, "-m", "keydist")
    init = (*keydist, "store", "init", "--config", "/etc/operator/keydist.yaml")
    machine.until(lambda: machine.run(*init, check=False).returncode == 0, "the buckets")


class MachineCluster(Opened):
    """The machines by what they are: `nats`, and `nodes` by name, of which `LEADER` leads."""

    def __init__(self, directory: Path) -> None:
        self._pki = directory / "pki"
        write_configurations(self._pki)
        nodes = {name: self._node_files(name) for name in (LEADER, *FOLLOWERS)}
        self.machines = Machines(directory, {NATS: nats_files(self._pki), **nodes}, patient=False, off=[NATS, *nodes])
        self.nodes: dict[str, Node] = {}

    def _node_files(self, name: str) -> dict[str, str | bytes]:
        role = "leader" if name == LEADER else "follower"
        files = installed(_CONFIG.format(name=name, role=role))
        return files | {f"/etc/keydist/nats/{file}": (self._pki / name / file).read_bytes() for file in _CREDENTIALS}

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the machines; they are off."""
        self.machines.start()
        self.nodes = {name: Node(self.machines[name]) for name in (LEADER, *FOLLOWERS)}

    def close(self) -> None:
        """End the machines."""
        self.machines.close()

    @property
    def nats(self) -> Machine:
        """The machine with the NATS server."""
        return self.machines[NATS]

    def start_anew(self) -> None:
        """Put new disks into all machines, and switch on those of the nodes: no key, no token, no NATS."""
        for machine in self.machines.values():
            if machine.is_on:
                machine.lose_power()
        self.nats.remove("/var/lib/nats")
        for node in self.nodes.values():
            node.machine.remove(STATE)
            node.machine.remove(TOKEN_FILE)
        switch_on(node.machine for node in self.nodes.values())

    def bring_nats(self) -> None:
        """Switch its machine on, and make the buckets."""
        self.nats.switch_on()
        make_buckets(self.nats)

    def bring_token(self, name: str) -> None:
        """Write a node's token."""
        self.nodes[name].put_token(TOKEN)

    def until_whole(self) -> str:
        """Wait until every node and every service that needs the key runs; return the kid that all of them have."""
        for node in self.nodes.values():
            node.machine.wait_for_boot()
            node.until_active("keydist", "keydist-ready.target", "web")
        [kid] = {node.kid for node in self.nodes.values()}
        return kid


def switch_on(machines: Iterable[Machine]) -> None:
    """Switch machines on, all at the same time."""
    on = list(machines)
    for machine in on:
        machine.switch_on(wait=False)
    for machine in on:
        machine.wait_for_boot()
