"""`keydist wait`: end when a verified keyset is on this node's disk, whoever brings it there.

A unit runs it at every boot, before everything that needs the key, so it has a way in that loads no command-line
library. It needs neither the store nor the token: with `at_rest: sealed` the key that was rendered since the boot
counts.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.adapters.clock import SystemClock
from keydist.adapters.config import load_config
from keydist.adapters.disk.archive import PEM
from keydist.adapters.duration import parse_duration
from keydist.adapters.systemd import ServiceManager
from keydist.cli.progress import Progress
from keydist.cli.render import fail, print_json, print_line, tell
from keydist.errors import ConfigError, KeydistError, NotYetError, UsageError, WaitTimeoutError
from keydist.wiring import machine

if TYPE_CHECKING:
    from collections.abc import Sequence

_PAUSE_SECONDS: Final = 0.5
_FOR_EVER: Final = 366 * 86_400
"""What a wait without an end asks the service manager for, in seconds."""
_VALUES: Final = {"--config": "config", "--timeout": "timeout"}


class WaitOptions(NamedTuple):
    """The options of `keydist wait`, as text."""

    config: str | None = None
    timeout: str | None = None
    as_json: bool = False


def parse_plain(arguments: Sequence[str]) -> WaitOptions | None:
    """Return the options, or None for anything but pairs of a known name and a value, which typer may explain."""
    options: dict[str, str] = {}
    for name, value in zip(arguments[::2], arguments[1::2], strict=False):
        if name not in _VALUES or not value or value.startswith("-"):
            return None
        options[_VALUES[name]] = value
    return WaitOptions(options.get("config"), options.get("timeout")) if len(arguments) % 2 == 0 else None


def run(options: WaitOptions) -> int:
    """Wait, say how it ended, and return the exit code."""
    manager = ServiceManager(os.environ)
    try:
        seconds = None if options.timeout is None else _seconds(options.timeout)
        why = _why_not(options.config)
        if why is not None:
            _wait(options.config, why, seconds, manager)
    except KeydistError as exc:
        return fail(exc, as_json=options.as_json)
    manager.ready("a verified keyset is on disk")
    if options.as_json:
        print_json({"ready": True, "changed": False})
    else:
        print_line("a verified keyset is on disk")
    return 0


def _wait(config: str | None, why: KeydistError, seconds: float | None, manager: ServiceManager) -> None:
    """Look again until a keyset is there. Raises `WaitTimeoutError`.

    Whatever is the matter may be repaired meanwhile, a refused configuration too: who waits here at a boot would not be
    started again.
    """
    import asyncio  # noqa: PLC0415 - 37 ms, not needed where the keyset is there

    clock, progress = SystemClock(), Progress(manager)
    end = None if seconds is None else clock.monotonic() + seconds

    async def until_ready(why: KeydistError | None) -> None:
        told = ""
        while why is not None:
            left = _FOR_EVER if end is None else end - clock.monotonic()
            if left <= 0:
                raise WaitTimeoutError(
                    "no verified keyset came to this node's disk in time", found=why.message, fix=why.fix
                ) from why
            if end is not None:
                progress.waiting(why.message, seconds_left=left)
            elif why.message != told:
                told = why.message
                tell(f"keydist: waiting: {told}")
                manager.waiting(told, seconds_left=left)
            await clock.sleep(min(_PAUSE_SECONDS, left))
            why = _why_not(config)

    try:
        asyncio.run(until_ready(why))
    finally:
        progress.done()


def _why_not(path: str | None) -> KeydistError | None:
    """Return why no keyset of this node can be used at the moment; None where one can."""
    try:
        config = load_config(path, environ=os.environ, overrides={})
        local = machine(config, os.environ).load()
    except KeydistError as exc:
        return exc
    if local.held is not None:
        return None
    if config.at_rest == "sealed" and os.path.lexists(f"{config.runtime_dir}/{PEM}"):
        return None  # whoever rendered it had the token, and verified the keyset
    return local.damage or NotYetError(
        "this node holds no keyset yet",
        expected=f"a verified keyset in {config.state_dir}",
        fix="get one with: keydist bootstrap, or keydist agent",
    )


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ConfigError as exc:
        fix = "see: keydist wait --help"
        raise UsageError("--timeout is a time", expected=exc.expected, found=exc.found, fix=fix) from None
