"""One nats-server as a child: on ports that stay its own while it is down, and never alive without its parent.

A socket that is bound and never listens keeps its port from everybody who asks for a free one, and yet lets
nats-server listen there, as both set SO_REUSEADDR.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from keydist.adapters.embedded import find_server

_STOP_SECONDS: Final = 10.0

# The kernel ends a child when the *thread* that made it ends. This one lasts as long as the process.
_parent = ThreadPoolExecutor(1, thread_name_prefix="parent of nats-servers")

# Between fork and exec of a process with threads nothing is safe to call: a new Python asks to die with its parent.
_DIE_WITH_PARENT: Final = """
import ctypes, os, signal, sys
if ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL) or os.getppid() != int(sys.argv[1]):
    sys.exit("cannot be bound to the life of the parent")
os.execv(sys.argv[2], sys.argv[2:])
"""


class ReservedPort:
    """A loopback port that nobody else gets until `release`."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    def release(self) -> None:
        self._socket.close()


class ServerProcess:
    """A nats-server with a configuration file; its standard error goes to `<configuration>.err`.

    `enter` is what its command line begins with: a host of a `Network`, say. `binary` is what the next start runs: the
    installed nats-server, unless it is set to another one.
    """

    def __init__(self, configuration: Path, *, enter: Sequence[str] = ()) -> None:
        self.binary: str | None = None
        self._enter = enter
        self._configuration = configuration
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs, as far as anybody asked it to."""
        return self._process.pid if self._process is not None else None

    def has_ended(self) -> bool:
        """Tell whether it ended although nobody asked it to."""
        return self._process is not None and self._process.poll() is not None

    def start(self) -> None:
        """Start the server and return at once. One that runs goes on."""
        if self._process is not None and self._process.poll() is None:
            return
        command = [*self._enter, sys.executable, "-ISc", _DIE_WITH_PARENT, str(os.getpid())]
        command += [self.binary or find_server(), "-c", str(self._configuration)]
        with self._configuration.with_suffix(".err").open("ab") as errors:
            self._process = _parent.submit(
                subprocess.Popen,
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for the test, which stops its servers itself
            ).result()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; one that does not run gets none."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self) -> None:
        """Return when the process that was told to end is gone; after a while it is killed."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def cpu_seconds(self) -> float:
        """Return the processor time that the running server has used, user and system."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
