"""The hosts of docs/operations.md: machines with a systemd on one network, and an administrator's desk with keydist.

On the desk `ssh root@HOST COMMAND` and `scp` do what they say by entering the machine: no host here runs an SSH server.
Everything else is what a user has: nats-server at /usr/local/bin, and whatever the page installs.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from integration.machine import NATS_SERVER
from integration.machines import Machines
from integration.opened import Opened

DESK: Final = "desk"
SERVERS: Final = ("nats-1", "nats-2", "nats-3")
NODES: Final = ("eu-a", "eu-b", "eu-c", "eu-d")
SERVER_PROGRAM: Final = f'#!/bin/sh\nexec {NATS_SERVER} "$@"\n'
Files = Mapping[str, str | bytes]
_REPOSITORY: Final = Path(__file__).parent.parent
_KNOWN: Final = "known"
_SHELL: Final = ("bash", "-eo", "pipefail", "-c")
_PATH: Final = "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PATIENCE: Final = 600.0
# Times of the policy, which is set at the first start: production waits a quarter of an hour before a key may sign.
_HASTE: Final = (
    "KEYDIST_HEARTBEAT=3s",
    "KEYDIST_POLICY_PROPAGATION=4s",
    "KEYDIST_POLICY_FRESHNESS=1s",
    "KEYDIST_POLICY_STALE_READ=1s",
    "KEYDIST_POLICY_JWKS_MAX_AGE=2s",
    "KEYDIST_POLICY_SKEW=1s",
    "KEYDIST_POLICY_LEEWAY=2s",
)

_SSH: Final = """#!/bin/sh
host=${1#root@}; shift
exec $(cat "$HOSTS/$host") sh -c "$*"
"""
# New files get the mode of what is copied, those that are there keep theirs: as scp does without -p.
_SCP: Final = r"""#!/bin/bash
set -eu
targets=("$@"); last=${targets[-1]}; unset 'targets[-1]'
on() { local place=${1%%:*}; if [ "$place" = "$1" ]; then echo env; else cat "$HOSTS/${place#root@}"; fi; }
for source in "${targets[@]}"; do
    mode=$($(on "$source") stat -Lc %a "${source#*:}")
    $(on "$source") cat "${source#*:}" | $(on "$last") sh -euc '
        [ ! -d "$1" ] || set -- "$1/${2##*/}" "$2" "$3"
        if [ -e "$1" ]; then cat >"$1"; else umask 077; cat >"$1"; chmod "$3" "$1"; fi
    ' scp "${last#*:}" "$source" "$mode"
done
"""


class Hosts(Opened):
    """All hosts of the page; `home` is that of the administrator on the desk, `folder` where its commands are typed."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.folder = self.home / "prod-eu1"
        self._entries = directory / "hosts"
        self._programs = directory / "bin"
        server: Files = {"/usr/local/bin/nats-server": SERVER_PROGRAM}
        node: Files = {
            "/etc/systemd/system/keydist.service.d/haste.conf": f"[Service]\nEnvironment={' '.join(_HASTE)}\n"
        }
        files = dict.fromkeys(SERVERS, server) | dict.fromkeys(NODES, node)
        self.machines = Machines(directory / "machines", files)

    def start(self) -> None:
        """Boot the machines and put the administrator's programs in place."""
        for place in (self.home, self._entries, self._programs):
            place.mkdir(parents=True)
        self.machines.start()
        self._furnish()

    def close(self) -> None:
        """End the machines."""
        self.machines.close()

    def _furnish(self) -> None:
        program = f'#!/bin/sh\nPYTHONPATH={_REPOSITORY} exec {sys.executable} -m keydist "$@"\n'
        for name, script in {"ssh": _SSH, "scp": _SCP, "keydist": program}.items():
            (self._programs / name).write_text(script, encoding="utf-8")
            (self._programs / name).chmod(0o755)
        for name, machine in self.machines.items():
            self.learn(name)
            machine.run("rm", "--force", "/var/lib/man-db/auto-update")  # or every installation indexes all manuals
        known = "".join(f"{self.machines.address(name)} {name}\n" for name in self.machines)
        (self._entries / _KNOWN).write_text(f"127.0.0.1 localhost\n{known}", encoding="utf-8")

    def learn(self, name: str) -> None:
        """Note how a machine is entered, which is another way each time it was switched on."""
        environ = ["env", "-i", "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", _PATH, *_HASTE]
        (self._entries / name).write_text(" ".join([*self.machines[name].enter, *environ]), encoding="utf-8")

    # --- what is typed -------------------------------------------------------------------------

    def type(self, host: str, command: str, *, root: bool = False) -> tuple[int, str]:
        """Type a command on a host, and return its exit code and what then stands on the screen."""
        done = subprocess.run(
            [*(self._desk() if host == DESK else self._entry(host, root=root)), *_SHELL, command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        return done.returncode, done.stdout

    def _entry(self, host: str, *, root: bool) -> list[str]:
        entry = (self._entries / host).read_text("utf-8").split()
        return entry if root else [*entry, "runuser", "-u", "keydist", "--"]

    def _desk(self) -> list[str]:
        """Enter the network, with the hosts' names; the rest of this machine stays what it is."""
        known = f'mount --bind {self._entries}/{_KNOWN} /etc/hosts; cd "$1"; shift; exec "$@"'
        place = self.folder if self.folder.is_dir() else self.home
        own = ["unshare", "--mount", "--propagation", "private", "bash", "-c", known, DESK, str(place)]
        environ = [f"HOME={self.home}", f"HOSTS={self._entries}", "LANG=C.UTF-8"]
        path = _PATH.replace("=", f"={self._programs}:")
        return [*self.machines.enter, *own, "env", "-i", *environ, path, *_HASTE]

    def do(self, host: str, command: str, *, root: bool = False) -> str:
        """Type a command that must succeed, and return what then stands on the screen."""
        code, output = self.type(host, command, root=root)
        assert code == 0, f"{host}: {command}: {code}\n{output}"
        return output
