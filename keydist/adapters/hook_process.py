"""One run of somebody else's program: a session and an environment of its own, a deadline, bounded output.

Whoever is left of its process group when the deadline comes, or the caller is cancelled, is ended: SIGTERM, then
SIGKILL. A program that ended is given a moment for its output; what still holds that open afterwards is killed too.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, cast

MAX_OUTPUT: Final = 65_536
"""The most output in bytes that is told of one run."""
MAX_LINES: Final = 1_000

_GRACE_SECONDS: Final = 2.0
_LINGER_SECONDS: Final = 1.0


async def run_program(
    argv: Sequence[str], *, environ: Mapping[str, str], seconds: float, told: Callable[[str], None]
) -> str:
    """Run a program and return why it failed, or nothing where it ended with 0; `told` hears lines of its output.

    After a cancellation no process of its group is left, and none is a zombie.
    """
    output = _Output(told)
    try:
        transport, process = await _start(argv, environ, output)
    except OSError as exc:
        return f"cannot be started: {os.strerror(exc.errno).lower() if exc.errno else type(exc).__name__}"
    try:
        in_time = await _within(seconds, process.exited)
        if not in_time:
            await _end(transport, process)
        await _within(_LINGER_SECONDS, process.silent)
    finally:
        await _end(transport, process)
        transport.close()
        output.end()
    return _failure(cast("int", transport.get_returncode())) if in_time else f"did not end within {seconds:g} s"


async def _start(
    argv: Sequence[str], environ: Mapping[str, str], output: _Output
) -> tuple[asyncio.SubprocessTransport, _Process]:
    loop = asyncio.get_running_loop()
    starting = loop.create_task(
        loop.subprocess_exec(
            lambda: _Process(output),
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(environ),
            cwd="/",
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # Cancelled itself, asyncio would kill the one process and wait for all who hold its output.
        with suppress(OSError):
            transport, process = await starting
            await _end(transport, process)
            transport.close()
        raise


class _Process(asyncio.SubprocessProtocol):
    """A running program: whether it ended, and whether nobody holds its output any more."""

    def __init__(self, output: _Output) -> None:
        self._output = output
        self.exited = asyncio.Event()
        self.silent = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        del fd  # there is one
        self._output.take(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        del fd, exc
        self.silent.set()

    def process_exited(self) -> None:
        self.exited.set()


class _Output:
    """Output on its way to lines; beyond the bounds it is said to be cut, and thrown away."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told = told
        self._bytes = MAX_OUTPUT
        self._lines = MAX_LINES
        self._rest = b""
        self._cut = False

    def take(self, data: bytes) -> None:
        """Take what the program wrote."""
        if self._cut:
            return
        kept = data[: self._bytes]
        self._bytes -= len(kept)
        *lines, self._rest = (self._rest + kept).split(b"\n")
        for line in lines[: self._lines]:
            self._tell(line)
        self._lines -= len(lines)
        if len(kept) < len(data) or self._lines < 0:
            self.end()
            self._cut = True
            self._told(f"(cut: more than {MAX_OUTPUT} bytes or {MAX_LINES} lines)")

    def end(self) -> None:
        """Tell the last line, where it has no end."""
        if self._lines >= 0:
            self._tell(self._rest)
        self._rest = b""

    def _tell(self, line: bytes) -> None:
        if line.strip():
            self._told(line.decode("utf-8", "replace").rstrip())


async def _within(seconds: float, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def _end(transport: asyncio.SubprocessTransport, process: _Process) -> None:
    """End whoever is left of the group, and leave no zombie."""
    pid = transport.get_pid()
    if process.exited.is_set():
        if not process.silent.is_set():
            _signal_group(pid, signal.SIGKILL)
        return
    _signal_group(pid, signal.SIGTERM)
    try:
        await _within(_GRACE_SECONDS, process.exited)
    finally:
        _signal_group(pid, signal.SIGKILL)
        await process.exited.wait()


def _signal_group(pid: int, number: signal.Signals) -> None:
    # Gone already, or under a user who is not ours to signal.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _failure(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}" if status else ""
    try:
        return f"ended by {signal.Signals(-status).name}"
    except ValueError:  # real-time signals have no name
        return f"ended by signal {-status}"
