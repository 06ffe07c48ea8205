"""Nodes as real processes: configured, started behind a gate so that they run at the same moment, killed, read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keydist.adapters.disk.archive import Layout
from keydist.adapters.disk.keyset_disk import PosixKeysetDisk
from keydist.core.envelope import Place
from keydist.core.local import Local
from keydist.core.token import format_token
from tests.material import TOKEN

ROOT = Path(__file__).parents[1]
_OURS = ("KEYDIST_", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY")

# Everything is loaded before the gate opens, so that what runs after it is the work and not the imports.
_GATED = """
import os, sys, asyncio, nats.aio.client, tenacity
import keydist.wiring, keydist.cli.bootstrap, keydist.adapters.entropy, keydist.services.genesis
import keydist.adapters.nats.store, keydist.adapters.retry, keydist.services.bootstrap
print("ready", file=sys.stderr, flush=True)
os.read(int(sys.argv.pop(1)), 1)
from keydist.cli.main import main
main()
"""


class Gate:
    """A pipe that many processes read; it opens for all of them at once."""

    def __init__(self) -> None:
        self.reading, self._writing = os.pipe()

    def open(self) -> None:
        os.close(self._writing)
        os.close(self.reading)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node with a directory of its own, in a cluster whose store is `bucket` of `url`."""

    directory: Path
    url: str
    bucket: str
    role: str

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
            "nats": {"servers": [self.url], "bucket": self.bucket},
        }
        config.write_text(json.dumps(settings), encoding="utf-8")
        return ["bootstrap", "--config", str(config), "--timeout", timeout, "--json"]

    def start(self, gate: Gate | None = None) -> subprocess.Popen[str]:
        """Start the process; behind a gate it waits there with everything loaded."""
        head = ["-m", "keydist"] if gate is None else ["-c", _GATED, str(gate.reading)]
        return subprocess.Popen(
            [sys.executable, *head, *self.command()],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith(_OURS)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=() if gate is None else (gate.reading,),
            text=True,
        )


def wait_at_gate(process: subprocess.Popen[str]) -> None:
    """Return when a process has loaded everything and waits for the gate."""
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a process and return its answer; it must have a keyset."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(out)
    return found
