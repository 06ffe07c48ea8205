"""A home and its regions on loopback, with exactly what `keydist store config` writes, and a wire between them.

    with Regions(tmp_path, {"eu": ["eu-1"], "us": ["us-1"]}) as regions:
        regions.member("eu-1").start()
        regions.wires["eu"].cut()

Home and each region have one server, or as many as are asked for; a wire leads to the first one at home. All nodes
have one token.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from integration.fleet import Member
from integration.nodes import Node
from integration.opened import Opened
from integration.secured import Secured
from integration.wire import Wire

HOME: Final = "home"


class Regions(Opened):
    """The servers by the name of their place, the wires by that of the region, and the nodes by their own."""

    def __init__(
        self,
        directory: Path,
        regions: Mapping[str, Sequence[str]],
        *,
        leaders: Sequence[str] = ("lead-1",),
        followers: Sequence[str] = ("node-a",),
        settings: Mapping[str, object] | None = None,
        servers: int = 1,
    ) -> None:
        self._directory = directory
        self._regions = dict(regions)
        self._settings = dict(settings or {})
        self._numbers = range(1, servers + 1)
        self._stack = ExitStack()
        links = [f"--link={name}" for name in regions]
        home = Secured(
            directory / HOME,
            leaders=leaders,
            followers=followers,
            hosts=["127.0.0.1", *(f"127.0.1.{number}" for number in self._numbers[1:])],
            more=links,
            init=("store", "init", *links),
        )
        self.places = {HOME: home}
        self.wires: dict[str, Wire] = {}
        self._members: dict[str, Member] = {}

    def start(self) -> None:
        """Start home, then each region with its link."""
        for name in self.places | self._regions:
            (self._directory / name).mkdir()
        home = self._stack.enter_context(self.places[HOME])
        for number, (name, followers) in enumerate(self._regions.items(), start=2):
            self.wires[name] = self._stack.enter_context(Wire(home.leaf_port))
            self.places[name] = self._region(name, followers, [f"127.0.{number}.{one}" for one in self._numbers])
            self._stack.enter_context(self.places[name])

    def close(self) -> None:
        """End agents and servers."""
        self.end_agents()
        self._stack.close()

    def end_agents(self) -> None:
        """Kill all agents: from then on nobody writes unasked."""
        for member in self._members.values():
            member.end(signal.SIGKILL)

    def _region(self, name: str, followers: Sequence[str], hosts: Sequence[str]) -> Secured:
        home = self.places[HOME]
        linked = [f"--region={name}", f"--home=127.0.0.1:{self.wires[name].port}"]
        made = Secured(
            self._directory / name,
            leaders=home.leaders,
            followers=followers,
            hosts=hosts,
            more=linked,
            init=("store", "init", f"--mirror={name}"),
        )
        for folder in ("ca", name):  # the CAs, and who the region is to home
            shutil.copytree(home.directory / folder, made.directory / folder)
        return made

    def place_of(self, name: str) -> Secured:
        """Return the servers that a node connects to."""
        return next(one for one in self.places.values() if (one.directory / name / "user.nk").exists())

    def member(self, name: str) -> Member:
        """Return a node with its user's credentials, and its agent, which is not started by that."""
        if name not in self._members:
            place = self.place_of(name)
            files = place.directory / name
            tls = {"ca_file": "server-ca.pem", "cert_file": "client.pem", "key_file": "client.key"}
            nats = {
                "servers": [f"tls://{host}:{place.client_port}" for host in place.hosts],
                "nkey_file": str(files / "user.nk"),
                "tls": {key: str(files / file) for key, file in tls.items()},
            }
            node = Node(
                directory=self._directory / "nodes" / name,
                url="",
                bucket="keydist",
                role="leader" if name in place.leaders else "follower",
                nats=nats,
                more=self._settings,
            )
            node.configure()
            self._members[name] = Member(node)
        return self._members[name]
