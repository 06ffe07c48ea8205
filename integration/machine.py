"""A machine of its own with a real systemd as PID 1: `systemd-nspawn --boot` over what this one has installed.

    with Machine(tmp_path, files={"/etc/systemd/system/a.service": "[Service]\nExecStart=/bin/true\n"}) as machine:
        machine.run("systemctl", "start", "a")

Nothing is downloaded, and nothing of this machine is written to: the machine's root is an overlay whose upper layer is
memory. Everything hangs on one process: with its end mounts and processes are gone. Needs root and systemd-nspawn.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import pytest

from keydist.adapters.embedded import find_server

PYTHON: Final = "/opt/keydist/python"
"""What runs keydist there: `PYTHON -m keydist` with `PYTHONPATH`; not in a home directory, which units do not see."""
PYTHONPATH: Final = "/opt/keydist/source:/opt/keydist/packages"
NATS_SERVER: Final = "/opt/keydist/nats-server"

_REPOSITORY: Final = Path(__file__).parent.parent
_UNSHARE: Final = ("unshare", "--mount", "--propagation", "private")
_TARGET: Final = "machine.target"
_SCRIPT: Final = """
set -eu
root=$1 name=$2; shift 2
mount -t tmpfs -o size=512m machine "$root"
mkdir "$root/work" "$root/root"
cp -a "$root.files" "$root/upper"
mount -t overlay machine -o "lowerdir=/,upperdir=$root/upper,workdir=$root/work" "$root/root"
mount -t cgroup2 machine /sys/fs/cgroup
group=/sys/fs/cgroup/$name
boot() {
    [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} +
    mkdir "$group"
    echo "$BASHPID" >"$group/cgroup.procs"
    exec systemd-nspawn --quiet --directory="$root/root" --machine="$name" --boot --private-network --register=no \\
        --keep-unit --console=read-only --system-call-filter=@memlock --system-call-filter=@keyring "$@"
}
while :; do
    boot "$@" &
    booted=$!
    trap 'kill -TERM $booted' TERM
    code=0
    wait $booted || code=$?
    while kill -0 $booted 2>/dev/null; do code=0; wait $booted || code=$?; done
    [ $code = 133 ] || [ -e "$root/again" ] || exit $code
    rm -f "$root/again"
done
"""
_TIDY: Final = """
mount -t cgroup2 machine /sys/fs/cgroup
[ ! -d "/sys/fs/cgroup/$1" ] || find "/sys/fs/cgroup/$1" -depth -type d -exec rmdir {} +
"""
_BOOTS_WITHIN: Final = 30.0
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
    if why and os.environ.get("KEYDIST_REQUIRE_SYSTEMD") == "1":
        pytest.fail(why)
    elif why:
        pytest.skip(why)


class Machine:
    """One machine; `files` stand in it from the start, by path; mode 0600 where the content is bytes, 0755 for scripts.

    It counts as booted once all that it starts has started; with `patient=False` also while something still waits.
    """

    def __init__(self, directory: Path, *, files: Mapping[str, str | bytes], patient: bool = True) -> None:
        self.name = f"keydist-{os.getpid()}"
        self._log = directory / "console"
        self._root = directory / "machine"
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._booted = ("running", "degraded") if patient else ("starting", "running", "degraded")
        self._root.mkdir()
        units = {
            "/etc/machine-id": "",
            "/etc/fstab": "",
            "/etc/hostname": "machine\n",
            f"/etc/systemd/system/{_TARGET}": "[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n",
        }
        for path, content in (units | dict(files)).items():
            self._write(path, content)
        self._write("/opt/keydist/.keep", "")
        for place in ("source/keydist", "packages", "interpreter"):
            (self._root.with_suffix(".files") / "opt/keydist" / place).mkdir(parents=True)
        self._write(NATS_SERVER, "")
        interpreter, name = "/opt/keydist/interpreter", Path(sys.executable).resolve().name
        self._write(PYTHON, f'#!/bin/sh\nLD_LIBRARY_PATH={interpreter}/lib exec {interpreter}/bin/{name} "$@"\n')

    def _write(self, path: str, content: str | bytes) -> None:
        target = self._root.with_suffix(".files") / path[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
        target.chmod(0o600 if isinstance(content, bytes) else 0o755 if content.startswith("#!") else 0o644)

    # --- life ----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _start(self) -> None:
        binds = {
            sys.base_prefix: "/opt/keydist/interpreter",
            sysconfig.get_path("purelib"): "/opt/keydist/packages",
            str(_REPOSITORY / "keydist"): "/opt/keydist/source/keydist",
            str(find_server()): NATS_SERVER,
        }
        shown = [*(f"--bind-ro={here}:{there}" for here, there in binds.items()), f"systemd.unit={_TARGET}"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "setpriv",
                    "--pdeathsig=TERM",
                    *_UNSHARE,
                    "bash",
                    "-c",
                    _SCRIPT,
                    "machine",
                    str(self._root),
                    self.name,
                    *shown,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_for_boot()

    def _wait_for_boot(self) -> None:
        self._leader = 0
        self.until(lambda: self._find_leader() and self.state() in self._booted, "systemd to run")

    def _find_leader(self) -> bool:
        """Find the process that is PID 1 inside: a child of systemd-nspawn."""
        assert self._process is not None
        for booted in _children(self._process.pid):
            for child in _children(booted):
                with suppress(FileNotFoundError, ProcessLookupError):
                    lines = Path(f"/proc/{child}/status").read_text("ascii", "replace").splitlines()
                    if any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in lines):
                        self._leader = child
        return self._leader != 0

    def reboot(self) -> None:
        """Shut it down in order and start it again, with what is on its disk; `/run` is empty then."""
        self.run("systemctl", "--no-block", "reboot", check=False)  # it may end before it says that it was heard
        self._boot_again(self._leader)

    def cut_power(self) -> None:
        """End it as a power failure does, at once, and start it again."""
        assert self._process is not None
        Path(f"/proc/{self._process.pid}/root{self._root}/again").touch()
        leader = self._leader
        os.kill(leader, signal.SIGKILL)
        self._boot_again(leader)

    def _boot_again(self, leader: int) -> None:
        self.until(lambda: not Path(f"/proc/{leader}").exists(), "the machine to end")
        self._wait_for_boot()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)  # systemd-nspawn shuts the machine down
        try:
            process.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            if self._leader:
                os.kill(self._leader, signal.SIGKILL)
            os.killpg(process.pid, signal.SIGKILL)  # systemd-nspawn too
            process.wait()
        subprocess.run([*_UNSHARE, "sh", "-c", _TIDY, "tidy", self.name], check=False, capture_output=True)

    # --- what is done in it --------------------------------------------------------------------

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in it as its root."""
        enter = ("nsenter", f"--target={self._leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
        environ = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "SYSTEMD_PAGER": "cat"}
        done = subprocess.run(
            [*enter, "--", *argv], check=False, capture_output=True, text=True, timeout=30, env=environ
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
            time.sleep(0.05)
        return time.monotonic() - start


def _children(pid: int) -> list[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    return []
