"""The demo's cluster: a directory, a nats-server, and a real keydist process for each start of a node.

Everything lives below one fresh directory and is gone after `close`, whatever happened. The processes get an
environment of their own: what the caller set for keydist or systemd is not for them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import keydist
from keydist.adapters.clock import SystemClock
from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.entropy import SystemEntropy
from keydist.adapters.token_file import write_token
from keydist.cli.demo.story import Start
from keydist.core.token import format_token, generate_token
from keydist.errors import DiskError

WAIT_SECONDS: Final = 60
_GRACE_SECONDS: Final = 30
_NOT_INHERITED: Final = frozenset({"CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET"})
_SAYS: Final = "keydist: "
_INTERNAL: Final = 70


class DemoCluster:
    """Nodes and their nats-server in a fresh directory. Make it with `open`, and `close` it in any case."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._environment = private_environment(os.environ)
        self._clock = SystemClock()
        self.server = EmbeddedServer(directory / "nats")

    @classmethod
    def open(cls) -> DemoCluster:
        """Return a cluster without nodes, its server not started. Raises `DiskError`."""
        try:
            return cls(Path(tempfile.mkdtemp(prefix="keydist-demo-")))
        except OSError as exc:
            raise DiskError(
                f"no temporary directory can be made: {os.strerror(exc.errno or 0)}", fix="set TMPDIR to a writable one"
            ) from exc

    def close(self) -> None:
        """Stop the server and remove everything."""
        self.server.stop(kill=True)
        shutil.rmtree(self._directory, ignore_errors=True)

    def make_token(self) -> None:
        """Write the one token file that the nodes share."""
        write_token(str(self._directory / "token"), format_token(generate_token(SystemEntropy().random)))

    def add_node(self, node: str, role: str) -> None:
        """Write a node's configuration. Its state directory does not exist yet."""
        home = self._directory / node
        home.mkdir(mode=0o700)
        settings = {
            "cluster": "demo",
            "node": node,
            "role": role,
            "token_file": str(self._directory / "token"),
            "state_dir": str(home / "state"),
            "runtime_dir": str(home / "run"),
            "nats": {"servers": [self.server.url]},
            "http": {"listen": None},  # the nodes of a demo share one machine
            "bootstrap": {"timeout": f"{WAIT_SECONDS}s"},
        }
        lines = [f"{name}: {json.dumps(value)}\n" for name, value in settings.items()]
        self._configuration(node).write_text("".join(lines), encoding="utf-8")

    def _configuration(self, node: str) -> Path:
        return self._directory / f"{node}.yaml"

    async def run(self, start: Start, *, changed: Callable[[], None]) -> None:
        """Start a node's process, and fill in `start` until it ended; `changed` is called after each note.

        Cancelled, it leaves no process behind.
        """
        start.began = self._clock.monotonic()
        start.note = "starts"
        # -P and PYTHONPATH: the keydist that runs, and not one that happens to lie in the working directory.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "keydist", "bootstrap"),
            *("--config", str(self._configuration(start.node)), "--json"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
            start_new_session=True,  # Ctrl-C is for the demo, which stops its processes itself
        )
        try:
            await self._watch(process, start, changed)
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
                await process.wait()
            start.seconds = self._clock.monotonic() - start.began
            start.note = "" if start.outcome or start.error else "stopped"
            start.settled.set()
            changed()

    async def _watch(self, process: asyncio.subprocess.Process, start: Start, changed: Callable[[], None]) -> None:
        if process.stdout is None or process.stderr is None:  # pragma: no cover - both were asked for
            raise AssertionError
        said = ""
        try:
            async with asyncio.timeout(WAIT_SECONDS + _GRACE_SECONDS), asyncio.TaskGroup() as group:
                answer = group.create_task(process.stdout.read())
                async for line in process.stderr:
                    said = printable(line.decode("utf-8", "replace").removeprefix(_SAYS))
                    if said.startswith("waiting"):
                        start.note = "waits for a leader" if "leader" in said else "waits for NATS"
                        start.settled.set()
                        changed()
                await process.wait()
        except TimeoutError:
            start.error, start.exit_code = "it did not end in time and was stopped", _INTERNAL
        else:
            start.envelope = self._envelope_digest(start.node)
            read_answer(start, code=process.returncode or 0, answer=answer.result(), said=said)

    def _envelope_digest(self, node: str) -> str:
        try:
            return hashlib.sha256((self._directory / node / "state/live/keyset.jwe").read_bytes()).hexdigest()
        except OSError:
            return ""


def read_answer(start: Start, *, code: int, answer: bytes, said: str) -> None:
    """Fill in `start` from what its ended process answered; `said` is its last line on standard error."""
    try:
        found = json.loads(answer)
    except ValueError:
        found = {}
    if code == 0 and isinstance(found, dict) and found.get("kid"):
        start.outcome, start.epoch = str(found["outcome"]), int(found["epoch"])
        start.kid, start.lineage = str(found["kid"]), str(found["lineage"])
        start.alarms = tuple(str(alarm["code"]) for alarm in found["alarms"])
        return
    start.exit_code = code if code > 0 else _INTERNAL
    start.error = said or (f"it was ended by signal {-code}" if code < 0 else "it said nothing")


def private_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a node's process may inherit: nothing that is meant for another keydist."""
    kept = {
        name: value for name, value in environ.items() if not name.startswith("KEYDIST_") and name not in _NOT_INHERITED
    }
    package = str(Path(keydist.__file__).resolve().parent.parent)
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (package, environ.get("PYTHONPATH"))))
    return kept


def printable(text: str) -> str:
    """Return a line without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()
