"""Nodes as real processes: configured, started behind a gate so that they run at the same moment, killed, read back."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from keydist.adapters.disk.archive import Layout
from keydist.adapters.disk.keyset_disk import PosixKeysetDisk
from keydist.cli.main import main
from keydist.core.envelope import Place
from keydist.core.local import Local
from keydist.core.token import format_token
from tests.material import TOKEN

# Processes are forked from one that has loaded everything: what is run, raced and killed is the work, not the imports.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    [
        "joserfc.jwt",
        "nats.aio.client",
        "tenacity",
        "keydist.adapters.entropy",
        "keydist.adapters.nats.store",
        "keydist.adapters.retry",
        "keydist.cli.agent",
        "keydist.cli.app",
        "keydist.cli.bootstrap",
        "keydist.services.bootstrap",
        "keydist.services.genesis",
        "integration.nodes",
    ]
)


class Gate:
    """Where so many processes wait for each other, and for the test."""

    def __init__(self, parties: int) -> None:
        self.barrier = processes.Barrier(parties + 1)

    def open(self) -> None:
        """Return when all are there; they go on at the same moment."""
        self.barrier.wait(60)


def run_keydist(arguments: list[str], directory: str, gate: Gate | None = None) -> None:
    """Become keydist with these arguments; what it prints goes to `out` and `err` in `directory`, anew each time."""
    for name, number in (("out", 1), ("err", 2)):
        file = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["keydist", *arguments]
    if gate is not None:
        gate.barrier.wait(60)
    main()


class Run:
    """One process of keydist, as it runs."""

    def __init__(self, directory: Path, arguments: list[str], gate: Gate | None = None) -> None:
        self._directory = directory
        self._process = processes.Process(target=run_keydist, args=(arguments, str(directory), gate))
        self._process.start()

    def kill(self) -> bool:
        """kill -9; tell whether it was still running."""
        was_running = self._process.is_alive()
        self._process.kill()
        self._process.join(60)
        self._process.close()
        return was_running

    def is_running(self) -> bool:
        return self._process.is_alive()

    def end(self) -> tuple[int, dict[str, Any]]:
        """Wait for the end and return the exit code and what it printed, a failure as `error`."""
        self._process.join(120)
        code = self._process.exitcode
        assert code is not None, "it does not end"
        self._process.close()
        out, err = ((self._directory / name).read_text(encoding="utf-8") for name in ("out", "err"))
        assert out, err
        found: dict[str, Any] = json.loads(out)
        return code, found

    def answer(self) -> dict[str, Any]:
        """Wait for the end and return what it printed; it must succeed."""
        code, found = self.end()
        assert code == 0, (found, (self._directory / "err").read_text(encoding="utf-8"))
        return found


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node with a directory of its own, in a cluster whose store is `bucket` of `url`.

    `nats` goes over what its configuration says under that name: other servers, credentials; `more` over the rest.
    """

    directory: Path
    url: str
    bucket: str
    role: str
    nats: Mapping[str, object] = field(default_factory=dict)
    more: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def config(self) -> Path:
        return self.directory / "keydist.yaml"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def place(self) -> Place:
        return Place(cluster="test", location=f"KV/{self.bucket}/signing-key")

    @property
    def disk(self) -> PosixKeysetDisk:
        return PosixKeysetDisk(
            str(self.state), str(self.directory / "run"), Layout(sealed=False, gid=None, place=self.place)
        )

    def load(self) -> Local:
        return self.disk.load((TOKEN,))

    def command(self, timeout: str = "30s") -> list[str]:
        """Write the configuration and return the arguments of a bootstrap."""
        return ["bootstrap", "--config", str(self.configure()), "--timeout", timeout, "--json"]

    def configure(self) -> Path:
        """Write the configuration and the token, and return the path of the configuration."""
        self.directory.mkdir(parents=True, exist_ok=True)
        token = self.directory / "token"
        if not token.exists():
            token.write_text(format_token(TOKEN), encoding="ascii")
            token.chmod(0o400)
        settings = {
            "cluster": "test",
            "node": self.name,
            "role": self.role,
            "state_dir": "state",
            "runtime_dir": "run",
            "token_file": "token",
            "key": {"alg": "ES256"},
            "http": {"listen": None},
            "nats": {"servers": [self.url], "bucket": self.bucket} | dict(self.nats),
        }
        self.config.write_text(json.dumps(settings | dict(self.more)), encoding="utf-8")
        return self.config

    def start(self, gate: Gate | None = None) -> Run:
        """Start a bootstrap; with a gate it waits there with everything loaded."""
        return Run(self.directory, self.command(), gate)

    def start_command(self, *arguments: str) -> Run:
        """Start a command that answers in JSON; the configuration must have been written."""
        return Run(self.directory, [*arguments, "--config", str(self.config), "--json"])

    def run(self) -> dict[str, Any]:
        """Run to the end and return the answer."""
        return self.start().answer()


class Home(Protocol):
    """Whose agents a fleet is made of."""

    directory: Path
    leaders: tuple[str, ...]
    followers: tuple[str, ...]

    def node(self, name: str) -> Node:
        """Return a node with a user's credentials."""
