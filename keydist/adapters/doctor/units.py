"""The units of keydist as systemd knows them; None where systemd does not run this machine. Nothing is changed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from keydist.core.doctor.around import AGENT_UNIT, BOOTSTRAP_UNIT, Unit

UNITS: Final = (AGENT_UNIT, BOOTSTRAP_UNIT, "keydist-wait-ready.service", "keydist-ready.target")
_RUNNING: Final = "/run/systemd/system"
_SECONDS: Final = 10
_MOST: Final = 1 << 20
_PROPERTIES: Final = "Id,LoadState,ActiveState,UnitFileState,Result,WatchdogUSec"
_EXPOSURE: Final = re.compile(r"Overall exposure level for (\S+?): ([0-9]{1,2}\.[0-9])", re.ASCII)


def units() -> tuple[Unit, ...] | None:
    """Return the units of keydist, those that are not installed too; None without systemd, or no answer from it."""
    systemctl = shutil.which("systemctl")
    if systemctl is None or not Path(_RUNNING).is_dir():
        return None
    told = _said(systemctl, "--no-ask-password", "show", "--no-pager", f"--property={_PROPERTIES}", *UNITS)
    if told is None:
        return None
    found = parse_show(told)
    services = [unit.name for unit in found if unit.is_there and unit.name.endswith(".service")]
    rated = _exposures(services)
    return tuple(unit._replace(exposure=rated.get(unit.name)) for unit in found)


def parse_show(text: str) -> tuple[Unit, ...]:
    """Return the units that `systemctl show` tells of: blocks of NAME=VALUE, apart by empty lines."""
    found = []
    for block in text.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        found.append(
            Unit(
                name=values.get("Id", "")[:256],
                load=values.get("LoadState", ""),
                active=values.get("ActiveState", ""),
                enabled=values.get("UnitFileState", ""),
                result=values.get("Result", ""),
                watchdog=values.get("WatchdogUSec", "0") not in ("0", "infinity", ""),
                exposure=None,
            )
        )
    return tuple(found)


def parse_exposures(text: str) -> dict[str, float]:
    """Return what `systemd-analyze security` rates each unit at, 0 (best) to 10."""
    return {name: float(value) for name, value in _EXPOSURE.findall(text)}


def _exposures(names: list[str]) -> dict[str, float]:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return {}
    rated: dict[str, float] = {}
    for name in names:
        rated |= parse_exposures(_said(analyze, "security", "--no-pager", name) or "")
    return rated


def _said(*command: str) -> str | None:
    environ = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "SYSTEMD_COLORS": "0"}
    try:
        done = subprocess.run(  # noqa: S603 - the service manager's own tools
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout[:_MOST].decode("utf-8", "replace") if done.returncode == 0 else None
