"""keydist in a booted machine as its package installs it, with a service that needs the key; what is seen of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from integration.machine import PYTHON, PYTHONPATH, Machine
from keydist.core.crypto import public_of_spki
from keydist.core.jwk import thumbprint
from keydist.core.token import BootstrapToken, format_token

SYSTEMD: Final = Path(__file__).parent.parent / "systemd"
TOKEN_FILE: Final = "/etc/keydist/token"
STATE: Final = "/var/lib/keydist"

_UNITS: Final = "/usr/lib/systemd/system"
_WEB: Final = """
[Unit]
Requires=keydist-ready.target
After=keydist-ready.target
[Service]
Type=exec
ExecStart=/bin/sh -c 'test -s /var/lib/keydist/live/signing-key.pem && exec sleep infinity'
ExecReload=/bin/sh -c 'echo reloaded >>/run/web.reloads'
"""
# What the package's postinst does, and who owns the credentials; the target is what the machine boots to.
_USERS: Final = """
[Unit]
DefaultDependencies=no
Before=basic.target
[Service]
Type=oneshot
ExecStart=systemd-sysusers
ExecStart=systemd-tmpfiles --create keydist.conf
ExecStart=-/bin/sh -c 'chown keydist /etc/keydist/nats/*'
"""
_BOOT: Final = "[Unit]\nWants=users.service keydist.service web.service\n"


def installed(config: str) -> dict[str, str | bytes]:
    """Return the files of a machine that starts keydist, and `web`, at each boot."""
    shipped = [path for path in SYSTEMD.iterdir() if path.suffix in (".service", ".path", ".target")]
    return {
        **{f"{_UNITS}/{path.name}": path.read_text("utf-8") for path in shipped},
        "/usr/lib/sysusers.d/keydist.conf": (SYSTEMD / "keydist.sysusers").read_text("utf-8"),
        "/usr/lib/tmpfiles.d/keydist.conf": (SYSTEMD / "keydist.tmpfiles").read_text("utf-8"),
        "/usr/bin/keydist": f'#!/bin/sh\nPYTHONPATH={PYTHONPATH} exec {PYTHON} -m keydist "$@"\n',
        "/etc/keydist/keydist.yaml": config,
        f"{_UNITS}/web.service": _WEB,
        f"{_UNITS}/users.service": _USERS,
        "/etc/systemd/system/machine.target.d/boot.conf": _BOOT,
    }


class Node:
    """What is looked at in such a machine, and done to it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def state(self, unit: str) -> str:
        """Return whether a unit is active."""
        return self.machine.show(unit, "ActiveState")["ActiveState"]

    def pid(self, unit: str) -> int:
        """Return a service's main process; 0 where none runs."""
        return int(self.machine.show(unit, "MainPID")["MainPID"])

    def status(self, unit: str) -> str:
        """Return what a service says about itself."""
        return self.machine.show(unit, "StatusText")["StatusText"]

    def until_active(self, *units: str) -> None:
        """Return when all of these units are active."""
        ask = ("systemctl", "is-active", *units)
        active = ["active"] * len(units)
        self.machine.until(
            lambda: self.machine.run(*ask, check=False).stdout.split() == active, f"{units} to be active"
        )

    def until_says(self, words: str) -> None:
        """Return when the agent's status has these words."""
        self.machine.until(lambda: words in self.status("keydist"), f"an agent that says: {words}")

    def until_all_started(self) -> None:
        """Return when nothing that the machine starts is missing, and nothing has failed."""
        self.machine.until(lambda: self.machine.state() == "running", "everything to have started")

    def until_restarted(self, before: int) -> None:
        """Return when another agent than this process runs, and is ready."""
        self.machine.until(lambda: self.pid("keydist") not in (0, before), "the agent to be started again")
        self.until_active("keydist")

    def put_token(self, *tokens: BootstrapToken) -> None:
        """Write the token file in one piece, as an administrator does."""
        self.machine.write(TOKEN_FILE, "".join(f"{format_token(token)}\n" for token in tokens).encode())

    @property
    def kid(self) -> str:
        """The kid of the private key that applications read on this node."""
        pem = self.machine.read(f"{STATE}/live/signing-key.pem")
        assert pem is not None
        private = load_pem_private_key(pem, None)
        der = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return thumbprint(public_of_spki(der, "ES256").members)

    # --- how long it took ----------------------------------------------------------------------

    def ready_after(self) -> float:
        """Return how many seconds after the machine was switched on its agent was ready."""
        shown = self.machine.show("keydist", "ActiveEnterTimestampMonotonic")
        return int(shown["ActiveEnterTimestampMonotonic"]) / 1e6 - self._switched_on()

    def key_after(self) -> float:
        """Return how many seconds after the machine was switched on its key was on disk."""
        swung = self.machine.run("stat", "--format=%.9Z", f"{STATE}/live").stdout
        return float(swung) - (time.time() - time.monotonic()) - self._switched_on()

    def _switched_on(self) -> float:
        """Return when its PID 1 began, in seconds of the clock that all machines here share."""
        shown = self.machine.run("systemctl", "show", "--property=UserspaceTimestampMonotonic", "--value").stdout
        return int(shown) / 1e6
