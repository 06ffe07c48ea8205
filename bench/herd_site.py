"""The server of a herd: files as `keydist store config` writes them, a process, and what it tells about itself."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.crowd import PLACE
from keydist.adapters.clock import SystemClock
from keydist.adapters.config import TlsConfig
from keydist.adapters.embedded import find_server
from keydist.adapters.nats.connection import Server
from keydist.adapters.store_files import Layout, Named, dev_files, seeds_of, wanted_files
from keydist.adapters.store_files import Server as Placed

HOST = "127.0.0.1"
LEADER = "leader"


class Site:
    """The server's files and the server; everything a user needs is in a folder of its name."""

    def __init__(self, root: Path, names: list[str]) -> None:
        self.files = root / "files"
        self._process: subprocess.Popen[bytes] | None = None
        self.port, self.monitor = free_port(), free_port()
        layout = Layout(
            cluster=PLACE.cluster,
            bucket="keydist",
            entry="signing-key",
            servers=(Placed("server", HOST, self.port),),
            operator=Named("operator", None),
            leaders=(Named(LEADER, None),),
            followers=tuple(Named(name, None) for name in names),
            listen=f"{HOST}:{self.port}",
            routes=f"{HOST}:{free_port()}",
            monitor=f"{HOST}:{self.monitor}",
            files_dir=str(self.files / "{name}"),
            store_dir=str(root / "store"),
            client_certificates=True,
        )
        seeds = seeds_of(layout, lambda _path, _secret: None, os.urandom)
        wanted = wanted_files(layout, seeds) + dev_files(layout, lambda _path, _secret: None, SystemClock().now())
        for one in wanted:
            path = self.files / one.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(one.data)
            path.chmod(0o600)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"tls://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The running server."""
        assert self._process is not None
        pid: int = self._process.pid
        return pid

    def start(self) -> None:
        """Start the server and return when it takes connections."""
        command = [find_server(), "-c", str(self.files / "server" / "nats-server.conf")]
        with (self.files / "server" / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while self.asked("healthz") is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                sys.exit((self.files / "server" / "log").read_text("utf-8", "replace")[-2000:])
            time.sleep(0.02)

    def kill(self) -> None:
        """End the server as a crash does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def asked(self, path: str) -> dict[str, Any] | None:
        """Return what the server tells about itself; None where it does not answer."""
        connection = http.client.HTTPConnection(HOST, self.monitor, timeout=10)
        try:
            connection.request("GET", f"/{path}")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()
        return found

    def as_user(self, name: str) -> Server:
        """Return where and as whom a user connects."""
        place = self.files / name
        tls = TlsConfig(*(str(place / file) for file in ("server-ca.pem", "client.pem", "client.key")))
        return Server(urls=(self.url,), node=name, nkey_file=str(place / "user.nk"), tls=tls)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
