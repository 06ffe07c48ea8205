"""A machine of its own with a real systemd as PID 1: `systemd-nspawn --boot` over what this one has installed.

    with Machine(tmp_path, files={"/etc/systemd/system/a.service": "[Service]\nExecStart=/bin/true\n"}) as machine:
        machine.run("systemctl", "start", "a")

Nothing is downloaded, and nothing of this machine is written to: the machine's root is an overlay whose upper layer is
memory. Everything hangs on one process, which ends with this one: with its end mounts, processes and control groups are
gone. Needs root and systemd-nspawn. Several of them on one network: `integration.machines`.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import pytest

from integration.opened import Opened
from keydist.adapters.embedded import find_server

PYTHON: Final = "/opt/keydist/python"
"""What runs keydist there: `PYTHON -m keydist` with `PYTHONPATH`; not in a home directory, which units do not see."""
PYTHONPATH: Final = "/opt/keydist/source:/opt/keydist/packages"
NATS_SERVER: Final = "/opt/keydist/nats-server"

_REPOSITORY: Final = Path(__file__).parent.parent
_SCRIPT: Final = Path(__file__).with_name("machine.sh")
_UNSHARE: Final = ("unshare", "--mount", "--propagation", "private")
# With the first process in it, which is the shell below, a process namespace is gone, whatever the others do.
_HOLD: Final = (*_UNSHARE, "--pid", "--fork", "--kill-child=TERM", "--mount-proc")
_TARGET: Final = "machine.target"
_BOOTS_WITHIN: Final = 60.0
_ENDS_WITHIN: Final = 15.0


def skip_unless_possible() -> None:
    """Skip the test where no machine can be had, with the reason; fail where `KEYDIST_REQUIRE_SYSTEMD=1`."""
    probe = (*_UNSHARE, "mount", "-t", "cgroup2", "probe", "/sys/fs/cgroup")
    why = ""
    if os.geteuid() != 0:
        why = "not root: only root boots a machine"
    elif shutil.which("systemd-nspawn") is None:
        why = "no systemd-nspawn: apt-get install --no-install-recommends systemd-container"
    elif subprocess.run(probe, check=False, capture_output=True).returncode:
        why = "no right to mount"
    if why:
        cannot(why)


def cannot(why: str) -> NoReturn:
    """Skip the test, or fail it where `KEYDIST_REQUIRE_SYSTEMD=1` says that all can be run."""
    if os.environ.get("KEYDIST_REQUIRE_SYSTEMD") == "1":
        pytest.fail(why)
    pytest.skip(why)


_numbers: Final = itertools.count(1)


class Machine(Opened):
    """One machine; `files` stand in it from the start, by path; mode 0600 where the content is bytes, 0755 for scripts.

    It counts as booted once all that it starts has started; with `patient=False` also while something still waits.
    `network` is what systemd-nspawn is told about one, and `inside` what a command line begins with that runs in it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        files: Mapping[str, str | bytes],
        patient: bool = True,
        name: str = "machine",
        network: str = "--private-network",
        inside: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._own = f"keydist-{os.getpid()}-{next(_numbers)}"
        self._log = directory / "console"
        self._root = directory / "machine"
        self._network = network
        self._inside = inside
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self.is_on = False
        self._booted = ("running", "degraded") if patient else ("starting", "running", "degraded")
        self._root.mkdir(parents=True)
        units = {
            "/etc/machine-id": "",
            "/etc/fstab": "",
            "/etc/hostname": f"{name}\n",
            f"/etc/systemd/system/{_TARGET}": "[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n",
        }
        disk = self._root.with_suffix(".files")
        for path, content in (units | dict(files)).items():
            _put(disk / path[1:], content)
        for place in ("source/keydist", "packages", "interpreter"):
            (disk / "opt/keydist" / place).mkdir(parents=True)
        _put(disk / NATS_SERVER[1:], "")
        interpreter, program = "/opt/keydist/interpreter", Path(sys.executable).resolve().name
        run = f'#!/bin/sh\nLD_LIBRARY_PATH={interpreter}/lib exec {interpreter}/bin/{program} "$@"\n'
        _put(disk / PYTHON[1:], run)

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the machine and switch it on."""
        self.open()
        self.switch_on()

    def open(self) -> None:
        """Make the machine; it is off."""
        binds = {
            sys.base_prefix: "/opt/keydist/interpreter",
            sysconfig.get_path("purelib"): "/opt/keydist/packages",
            str(_REPOSITORY / "keydist"): "/opt/keydist/source/keydist",
            str(find_server()): NATS_SERVER,
        }
        shown = [*(f"--bind-ro={here}:{there}" for here, there in binds.items()), f"systemd.unit={_TARGET}"]
        script = ["bash", str(_SCRIPT), str(self._root), self._own, self._network, *shown]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", *self._inside, *_HOLD, *script],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def close(self) -> None:
        """End it at once, with all that it wrote."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def switch_on(self, *, wait: bool = True) -> None:
        """Boot it, and wait until it has."""
        assert self._process is not None
        assert self._process.stdin is not None
        self.is_on = True
        self._process.stdin.write(b"on\n")
        self._process.stdin.flush()
        if wait:
            self.wait_for_boot()

    def wait_for_boot(self) -> None:
        """Return when it has booted."""
        self.until(lambda: self._find_leader() and self.state() in self._booted, "systemd to run")

    def switch_off(self) -> None:
        """Shut it down in order; what is on its disk stays."""
        self.run("systemctl", "--no-block", "poweroff", check=False)  # it may end before it says that it was heard
        self._wait_for_end()

    def lose_power(self) -> None:
        """End it as a power failure does, at once."""
        self.until(self._find_leader, "the machine to be on")
        os.kill(self._leader, signal.SIGKILL)
        self._wait_for_end()

    def reboot(self) -> None:
        """Shut it down in order and start it again, with what is on its disk; `/run` is empty then."""
        self.run("systemctl", "--no-block", "reboot", check=False)
        self._wait_for_end()
        self.switch_on()

    def cut_power(self) -> None:
        """Let it lose its power, and start it again."""
        self.lose_power()
        self.switch_on()

    def _find_leader(self) -> bool:
        """Find the process that is PID 1 inside: below unshare, the shell that holds all, and systemd-nspawn."""
        for child in self._below(3):
            with suppress(FileNotFoundError, ProcessLookupError):
                lines = Path(f"/proc/{child}/status").read_text("ascii", "replace").splitlines()
                if any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in lines):
                    self._leader = child
        return self._leader != 0

    def _below(self, generations: int) -> list[int]:
        assert self._process is not None
        found = [self._process.pid]
        for _ in range(generations):
            found = [child for process in found for child in children(process)]
        return found

    def _wait_for_end(self) -> None:
        self.until(lambda: not self._below(2), "the machine to end")
        self._leader, self.is_on = 0, False

    # --- what is done in it --------------------------------------------------------------------

    @property
    def enter(self) -> list[str]:
        """What a command line begins with that runs in it as its root, until it is switched off."""
        spaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
        return ["nsenter", f"--target={self._leader}", *spaces, "--"]

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in it as its root."""
        environ = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "SYSTEMD_PAGER": "cat"}
        done = subprocess.run(
            [*self.enter, *argv], check=False, capture_output=True, text=True, timeout=30, env=environ
        )
        assert not check or done.returncode == 0, f"{argv}: {done.returncode}: {done.stdout}{done.stderr}"
        return done

    def state(self) -> str:
        """Return how the whole system is."""
        return self.run("systemctl", "is-system-running", check=False).stdout.strip()

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Return properties of a unit."""
        out = self.run("systemctl", "show", unit, *(f"--property={name}" for name in names)).stdout
        return dict(line.split("=", 1) for line in out.splitlines())

    def _disk(self, path: str) -> Path:
        assert self._process is not None
        return Path(f"/proc/{self._process.pid}/root{self._root}/root{path}")

    def write(self, path: str, content: str | bytes) -> None:
        """Put a file on its disk in one piece, whether it is on or off; modes as those of `files`."""
        target = self._disk(path)
        made = target.with_name(f".{target.name}.new")
        _put(made, content)
        made.replace(target)

    def remove(self, path: str) -> None:
        """Remove a file or a directory from its disk, if it is there."""
        there = self._disk(path)
        shutil.rmtree(there) if there.is_dir() else there.unlink(missing_ok=True)

    def read(self, path: str) -> bytes | None:
        """Return a file's content; None where there is none."""
        file = Path(f"/proc/{self._leader}/root{path}")
        return file.read_bytes() if file.exists() else None

    def until(self, holds: Callable[[], object], what: str, seconds: float = _BOOTS_WITHIN) -> float:
        """Return after how many seconds something held."""
        start = time.monotonic()
        while not holds():
            assert self._process is not None
            ended = self._process.poll()
            if ended is not None or time.monotonic() > start + seconds:
                why = f"it ended with {ended}" if ended is not None else f"not within {seconds:g} s"
                raise AssertionError(f"waiting for {what}: {why}\n{self._log.read_text('utf-8', 'replace')[-4000:]}")
            time.sleep(0.1)  # to look takes two processes
        return time.monotonic() - start


def _put(target: Path, content: str | bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content if isinstance(content, bytes) else content.encode())
    target.chmod(0o600 if isinstance(content, bytes) else 0o755 if content.startswith("#!") else 0o644)


def children(pid: int) -> list[int]:
    """Return the processes that a process started; none where it is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    return []
