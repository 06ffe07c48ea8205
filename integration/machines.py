"""Several machines on one network of their own, each with a fixed address, known to all by its name.

    with Machines(tmp_path, {"nats": {}, "a": {"/etc/motd": "hello\n"}}, off=["a"]) as machines:
        machines["a"].switch_on()
        machines["nats"].run("ping", "-c1", "a")
        subprocess.run([*machines.enter, "ping", "-c1", machines.address("a")])

The network is a bridge in a network namespace without a name: it is gone with the last process in it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from integration.machine import Machine
from integration.opened import Opened

_SUBNET: Final = "10.77.0"
_BRIDGE: Final = "machines"
_SCRIPT: Final = f"""
set -eu
ip link set lo up
ip link add {_BRIDGE} type bridge
ip address add {_SUBNET}.1/24 dev {_BRIDGE}
ip link set {_BRIDGE} up
echo ready
exec sleep infinity
"""
_NETWORK: Final = """
[Unit]
DefaultDependencies=no
Before=basic.target network.target network-online.target
Wants=network.target network-online.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=ip address add {address}/24 dev host0
ExecStart=ip link set host0 up
ExecStart=ip link set lo up
"""
_TARGET: Final = "/etc/systemd/system/machine.target.d/network.conf"


class Machines(Opened, Mapping[str, Machine]):
    """Machines by name, each with its files; all but those in `off` are booted, at the same time."""

    def __init__(
        self,
        directory: Path,
        files: Mapping[str, Mapping[str, str | bytes]],
        *,
        patient: bool = True,
        off: Iterable[str] = (),
    ) -> None:
        self._directory = directory
        self._files = files
        self._patient = patient
        self._off = frozenset(off)
        self._addresses = {name: f"{_SUBNET}.{number}" for number, name in enumerate(files, 2)}
        self._network: subprocess.Popen[str] | None = None
        self._machines: dict[str, Machine] = {}

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the network and all machines, and boot them."""
        command = ["setpriv", "--pdeathsig=KILL", "unshare", "--net", "sh", "-c", _SCRIPT]
        self._network = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._network.stdout is not None
        assert self._network.stdout.readline() == "ready\n"
        for name in self._files:
            self._machines[name] = self._make(name)
            self._machines[name].open()
        booting = [machine for name, machine in self._machines.items() if name not in self._off]
        for machine in booting:
            machine.switch_on(wait=False)
        for machine in booting:
            machine.wait_for_boot()

    def _make(self, name: str) -> Machine:
        hosts = "".join(f"{address} {host}\n" for host, address in self._addresses.items())
        own: dict[str, str | bytes] = {
            "/etc/hosts": f"127.0.0.1 localhost\n{hosts}",
            "/etc/systemd/system/address.service": _NETWORK.format(address=self.address(name)),
            _TARGET: "[Unit]\nWants=address.service\n",
        }
        return Machine(
            self._directory / name,
            files=own | dict(self._files[name]),
            patient=self._patient,
            name=name,
            network=f"--network-bridge={_BRIDGE}",
            inside=self.enter,
        )

    def close(self) -> None:
        """End all of it at once."""
        for machine in self._machines.values():
            machine.close()
        if self._network is not None:
            self._network.kill()
            self._network.communicate()

    # --- who is there --------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Machine:
        return self._machines[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._machines)

    def __len__(self) -> int:
        return len(self._machines)

    def address(self, name: str) -> str:
        """Return a machine's address."""
        return self._addresses[name]

    @property
    def enter(self) -> list[str]:
        """What a command line begins with that runs on this machine, but on their network."""
        assert self._network is not None
        return ["nsenter", f"--target={self._network.pid}", "--net"]
