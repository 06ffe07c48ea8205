"""An agent as installed on a machine: a real process, what it says to its service manager, and its log."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from keydist.adapters.disk.archive import Layout
from keydist.adapters.disk.keyset_disk import PosixKeysetDisk
from keydist.core.accept import Held
from keydist.core.envelope import Place
from keydist.core.strict import b64url_encode
from keydist.core.token import BootstrapToken, format_token
from tests.material import OTHER_TOKEN, TOKEN, Change, extend, first, hold

CLUSTER: Final = "prod-eu1"
KEYDIST: Final = (sys.executable, "-m", "keydist")
STOPS_WITHIN: Final = 5.0
_PAUSE = threading.Event()


def eventually(what: Callable[[], object], *, within: float = 10.0) -> float:
    """Wait until something is so; return how long that took."""
    begun = perf_counter()
    while not what():
        assert perf_counter() - begun < within, f"not so within {within} s"
        _PAUSE.wait(0.01)
    return perf_counter() - begun


def pause(seconds: float) -> None:
    _PAUSE.wait(seconds)


class Process:
    """A running agent; what it says to the service manager and to its log."""

    def __init__(self, host: Host, *arguments: str, program: tuple[str, ...], **environ: str) -> None:
        self._log = host.directory / f"log-{len(host.processes)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = str(host.directory / f"notify-{len(host.processes)}")
        self._socket.bind(address)
        self.said: list[tuple[float, str]] = []
        self._ear = threading.Thread(target=self._listen, daemon=True)
        self._ear.start()
        own = {name: value for name, value in os.environ.items() if not name.startswith(("KEYDIST_", "WATCHDOG"))}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*program, "agent", "--config", str(host.config), *arguments],
                env=own | {"NOTIFY_SOCKET": address} | environ,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        host.processes.append(self)

    def _listen(self) -> None:
        while message := self._socket.recv(65_536):
            self.said.append((perf_counter(), message.decode()))

    def end(self) -> None:
        """End it, whatever it does, and stop listening."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stop:
            stop.sendto(b"", self._socket.getsockname())
        self._ear.join()
        self._socket.close()

    # --- what it said --------------------------------------------------------------------------

    def times(self, line: str) -> list[float]:
        """Return when it sent a message with this line."""
        return [at for at, message in self.said if line in message.split("\n")]

    def wait_for(self, line: str, *, times: int = 1, within: float = 15.0) -> None:
        eventually(lambda: len(self.times(line)) >= times or self.process.poll() is not None, within=within)
        assert len(self.times(line)) >= times, self.log()

    def statuses(self) -> list[str]:
        lines = [line for _, message in self.said for line in message.split("\n")]
        return [line.removeprefix("STATUS=") for line in lines if line.startswith("STATUS=")]

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Return its events, or those of a name; every line must be one."""
        found = [json.loads(line) for line in self.log().splitlines()]
        assert all({"ts", "level", "event"} <= event.keys() for event in found)
        return [event for event in found if not name or event["event"] == name]

    # --- what is done to it --------------------------------------------------------------------

    def hang_up(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it in time, and return its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(STOPS_WITHIN)
        assert self.times("STOPPING=1")
        return code


class Host:
    """One node as installed."""

    def __init__(self, directory: Path, url: str, bucket: str, **settings: Any) -> None:  # noqa: ANN401 - configuration
        self.directory, self.state, self.config = directory, directory / "state", directory / "keydist.yaml"
        self.place = Place(cluster=CLUSTER, location=f"KV/{bucket}/signing-key")
        self.processes: list[Process] = []
        self._settings: dict[str, Any] = {
            "cluster": CLUSTER,
            "node": directory.name,
            "role": "leader",
            "state_dir": "state",
            "runtime_dir": "run",
            "token_file": "token",
            "key": {"alg": "EdDSA"},
            "heartbeat": "1s",
            "resync": "2s",
            "http": {"listen": None},
            "nats": {"servers": [url], "bucket": bucket},
        }
        directory.mkdir()
        self.hold_tokens(TOKEN)
        self.configure(**settings)

    def configure(self, **settings: Any) -> None:  # noqa: ANN401 - configuration
        """Write the configuration with these settings from now on."""
        self._settings |= settings
        self.config.write_text(json.dumps(self._settings), encoding="utf-8")

    def hold_tokens(self, *tokens: BootstrapToken) -> None:
        path = self.directory / "token"
        path.unlink(missing_ok=True)
        if tokens:
            fresh = self.directory / "token.new"
            fresh.write_text("".join(f"{format_token(token)}\n" for token in tokens), encoding="ascii")
            fresh.chmod(0o400)
            fresh.rename(path)

    def start(self, *arguments: str, program: tuple[str, ...] = KEYDIST, **environ: str) -> Process:
        """Start its agent; `program` stands for `keydist`."""
        return Process(self, *arguments, program=program, **environ)

    def history(self) -> list[Held]:
        """Return three epochs that belong here."""
        epochs = [first()]
        for _ in range(2):
            epochs.append(extend(self.sealed(epochs[-1]), Change.ROTATE))
        return [self.sealed(held) for held in epochs]

    def sealed(self, held: Held, token: BootstrapToken = TOKEN) -> Held:
        return hold(held.keyset, token=token, place=self.place)

    @property
    def disk(self) -> PosixKeysetDisk:
        return PosixKeysetDisk(
            str(self.state), str(self.directory / "run"), Layout(sealed=False, gid=None, place=self.place)
        )

    def install(self, *history: Held) -> None:
        for held in history:
            self.disk.install(held, based_on=self.disk.load((TOKEN,)), now=1)

    @property
    def held(self) -> Held | None:
        return self.disk.load((TOKEN, OTHER_TOKEN)).held

    @property
    def epoch(self) -> int:
        held = self.held
        return held.keyset.epoch if held is not None else 0

    def secrets(self) -> list[str]:
        """Return what must never be shown: the tokens, and the key material on disk, as it may be spelled."""
        found = [format_token(token).split("_")[2] for token in (TOKEN, OTHER_TOKEN)]
        held = self.held
        for key in held.keyset.keys if held is not None else ():
            if key.use == "enc" or key.state.value in ("next", "active"):
                tail = key.material[-32:]
                found += [b64url_encode(tail), base64.b64encode(tail).decode(), tail.hex()]
        return [*found, "PRIVATE KEY"]
