"""Nodes as real processes: configured, started behind a gate so that they run at the same moment, killed, read back."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keydist.adapters.disk.archive import Layout
from keydist.adapters.disk.keyset_disk import PosixKeysetDisk
from keydist.cli.main import main
from keydist.core.envelope import Place
from keydist.core.local import Local
from keydist.core.token import format_token
from tests.material import TOKEN

# Processes are forked from one that has loaded everything: what is run, raced and killed is the work, not the imports.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    [
        "nats.aio.client",
        "tenacity",
        "keydist.adapters.entropy",
        "keydist.adapters.nats.store",
        "keydist.adapters.retry",
        "keydist.cli.bootstrap",
        "keydist.services.bootstrap",
        "keydist.services.genesis",
        "integration.nodes",
    ]
)


class Gate:
    """Where so many processes wait for each other, and for the test."""

    def __init__(self, processes: int) -> None:
        self.barrier = _processes.Barrier(processes + 1)

    def open(self) -> None:
        """Return when all are there; they go on at the same moment."""
        self.barrier.wait(60)


def _work(arguments: list[str], directory: str, gate: Gate | None) -> None:
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

    def __init__(self, node: Node, gate: Gate | None) -> None:
        self._directory = node.directory
        self._process = _processes.Process(target=_work, args=(node.command(), str(node.directory), gate))
        self._process.start()

    def kill(self) -> bool:
        """kill -9; tell whether it was still running."""
        was_running = self._process.is_alive()
        self._process.kill()
        self._process.join(60)
        self._process.close()
        return was_running

    def answer(self) -> dict[str, Any]:
        """Wait for the end and return what it printed; it must have a keyset."""
        self._process.join(60)
        code = self._process.exitcode
        self._process.close()
        out, err = ((self._directory / name).read_text(encoding="utf-8") for name in ("out", "err"))
        assert code == 0, err
        found: dict[str, Any] = json.loads(out)
        return found


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node with a directory of its own, in a cluster whose store is `bucket` of `url`.

    `nats` goes over what its configuration says under that name: other servers, credentials.
    """

    directory: Path
    url: str
    bucket: str
    role: str
    nats: Mapping[str, object] = field(default_factory=dict)

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
        """Write the configuration and return the arguments of keydist."""
        self.directory.mkdir(parents=True, exist_ok=True)
        token, config = self.directory / "token", self.directory / "keydist.yaml"
        if not token.exists():
            token.write_text(format_token(TOKEN), encoding="ascii")
            token.chmod(0o400)
        settings = {
            "cluster": "test",
            "node": self.directory.name,
            "role": self.role,
            "state_dir": "state",
            "runtime_dir": "run",
            "token_file": "token",
            "key": {"alg": "ES256"},
            "nats": {"servers": [self.url], "bucket": self.bucket} | dict(self.nats),
        }
        config.write_text(json.dumps(settings), encoding="utf-8")
        return ["bootstrap", "--config", str(config), "--timeout", timeout, "--json"]

    def start(self, gate: Gate | None = None) -> Run:
        """Start the process; with a gate it waits there with everything loaded."""
        return Run(self, gate)

    def run(self) -> dict[str, Any]:
        """Run to the end and return the answer."""
        return self.start().answer()
