"""Nats-servers on loopback, started with exactly what `keydist store config --dev-pki` writes: TLS and all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import yaml

from integration import monitor
from integration.nodes import Node
from integration.opened import Opened
from integration.server_process import ReservedPort, ServerProcess
from integration.user import User, connect
from keydist.adapters.config import TlsConfig
from keydist.adapters.nats.accounts import KEYS
from keydist.adapters.nats.bucket import stream_name
from keydist.adapters.nats.connection import Server
from keydist.adapters.nats.credentials import tls_context

HOSTS: Final = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
_PATIENCE_SECONDS: Final = 40.0
_LOOK_SECONDS: Final = 0.2


def run_keydist(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of keydist as a process of its own, without any of this machine's configuration."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("KEYDIST_")}
    return subprocess.run(
        [sys.executable, "-m", "keydist", *arguments],
        capture_output=True,
        text=True,
        env=environ,
        timeout=60,
        check=False,
    )


def said_after_handshake(host: str, port: int, context: ssl.SSLContext) -> bytes:
    """Return what a server says to who has this certificate; nothing where it refuses the handshake."""
    try:
        with (
            socket.create_connection((host, port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            return secure.recv(4096)
    except OSError:
        return b""


class Secured(Opened):
    """The servers, and their users by name; `directory` is what `--dev-pki` names.

    `more` are further arguments of `store config`, `init` is the command that makes the streams.
    `enter` gives what the command line of a host's server begins with, where it is a host of a `Network`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        leaders: Iterable[str] = ("lead-1", "lead-2"),
        followers: Iterable[str] = ("node-a", "node-b"),
        hosts: Iterable[str] = HOSTS,
        more: Iterable[str] = (),
        init: Iterable[str] = ("store", "init"),
        enter: Callable[[str], Sequence[str]] = lambda _host: (),
    ) -> None:
        self.directory = directory / "pki"
        self.leaders, self.followers, self.hosts = tuple(leaders), tuple(followers), tuple(hosts)
        self._more, self._init = tuple(more), tuple(init)
        self._reserved = [ReservedPort() for _ in range(4)]
        self.client_port, self.route_port, self.monitor_port, self.leaf_port = (port.number for port in self._reserved)
        self._servers = [
            ServerProcess(self.directory / host / "nats-server.conf", enter=enter(host)) for host in self.hosts
        ]

    @property
    def arguments(self) -> list[str]:
        """The arguments of `store config`, without an output directory."""
        made = [f"--server={host}={host}:{self.client_port}" for host in self.hosts]
        made += [f"--leader={','.join(self.leaders)}", f"--follower={','.join(self.followers)}"]
        made += [f"--listen={{name}}:{self.client_port}", f"--routes={{name}}:{self.route_port}"]
        made += [f"--monitor={{name}}:{self.monitor_port}", f"--leaf={{name}}:{self.leaf_port}", *self._more]
        return [*made, f"--files-dir={self.directory}/{{name}}", f"--store-dir={self.directory}/{{name}}/store"]

    def write(self, *more: str) -> dict[str, Any]:
        """Run `store config` and return its answer."""
        return self.answer("store", "config", "--dev-pki", str(self.directory), *self.arguments, *more)

    def start(self) -> None:
        """Write the configurations, start the servers and make the streams."""
        self.write()
        token = run_keydist("token", "generate", "--out", str(self.directory / "token"))
        assert token.returncode == 0, token.stderr
        for number in range(len(self.hosts)):
            self.start_server(number)
        self.make_streams()

    def make_streams(self) -> None:
        """Make what is missing of the streams, as the operator, once the servers let it."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:  # until the servers have found each other, and a leader of JetStream
            made = self.keydist("operator", *self._init)
            if made.returncode == 0:
                return
            assert not any(server.has_ended() for server in self._servers), self.logs()
            assert time.monotonic() < deadline, made.stderr + self.logs()
            time.sleep(_LOOK_SECONDS)

    def start_server(self, number: int) -> None:
        """Start one server; it takes clients some time after."""
        self._servers[number].start()

    def kill_server(self, host: str) -> None:
        """Kill one server."""
        server = self._servers[self.hosts.index(host)]
        server.signal(signal.SIGKILL)
        server.wait()

    def lose_everything(self) -> None:
        """Kill all servers, remove what JetStream keeps, start them again and make the streams."""
        self._kill()
        for number, host in enumerate(self.hosts):
            shutil.rmtree(self.directory / host / "store")
            self.start_server(number)
        self.make_streams()

    def reload(self) -> None:
        """Let the servers read their configurations again."""
        for server in self._servers:
            server.signal(signal.SIGHUP)

    def close(self) -> None:
        """Kill all servers and let go of their ports."""
        self._kill()
        for port in self._reserved:
            port.release()

    def _kill(self) -> None:
        for host in self.hosts:
            self.kill_server(host)

    def logs(self) -> str:
        """Return what all servers logged."""
        return "".join((self.directory / host / "nats-server.err").read_text("utf-8") for host in self.hosts)

    def stream_leader(self, bucket: str = "keydist") -> str | None:
        """Return the host whose server leads a bucket's stream, as it says itself; None where none does."""
        for host in self.hosts:
            for stream in monitor.streams(self.monitor_port, KEYS, host=host):
                if stream["name"] == stream_name(bucket) and stream["cluster"].get("leader") == host:
                    return host
        return None

    # --- who connects ----------------------------------------------------------------------------

    def config(self, name: str) -> str:
        """Return the configuration that was written for a user."""
        return str(self.directory / name / "keydist.yaml")

    def node(self, name: str) -> Node:
        """Return a keydist node with this user's credentials, in a cluster of its own."""
        own = self.directory / name
        tls = {"ca_file": "server-ca.pem", "cert_file": "client.pem", "key_file": "client.key"}
        urls = [f"tls://{host}:{self.client_port}" for host in self.hosts]
        return Node(
            directory=self.directory / "nodes" / name,
            url=urls[0],
            bucket="keydist",
            role="leader" if name in self.leaders else "follower",
            nats={
                "servers": urls,
                "nkey_file": str(own / "user.nk"),
                "tls": {member: str(own / file) for member, file in tls.items()},
            },
        )

    def keydist(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a user."""
        return run_keydist(*arguments, "--config", self.config(name))

    def keydist_at(self, host: str, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a user who knows one server only."""
        path = self.directory / name / "one.yaml"
        settings = yaml.safe_load(Path(self.config(name)).read_text("utf-8"))
        settings["nats"]["servers"] = [f"tls://{host}:{self.client_port}"]
        path.write_text(json.dumps(settings), encoding="utf-8")
        return run_keydist(*arguments, "--config", str(path))

    @staticmethod
    def answer(*arguments: str) -> dict[str, Any]:
        """Run a command that must succeed, and return its JSON."""
        done = run_keydist(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def asked(self, name: str, *arguments: str) -> dict[str, Any]:
        """Run a command as a user, which must succeed, and return its JSON."""
        return self.answer(*arguments, "--config", self.config(name))

    def context(self, folder: str, *, pair: str = "client") -> ssl.SSLContext:
        """Return a context that trusts the servers and shows the certificate `<folder>/<pair>.pem`."""
        place = self.directory / folder
        ca = self.directory / "ca" / "server-ca.pem"
        return tls_context(TlsConfig(str(ca), str(place / f"{pair}.pem"), str(place / f"{pair}.key")))

    def client(self, name: str, *, at: int = 0, **options: Any) -> AbstractAsyncContextManager[User]:  # noqa: ANN401 - those of nats-py
        """Connect as a user with nats-py, at one server; `client.denied` fills with what is forbidden."""
        url = f"tls://{self.hosts[at]}:{self.client_port}"
        server = Server(urls=(url,), node=name, nkey_file=str(self.directory / name / "user.nk"))
        return connect(server, **({"tls": self.context(name), "tls_handshake_first": True} | options))
