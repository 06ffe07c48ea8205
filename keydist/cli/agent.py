"""`keydist agent` without the cost of a command-line library, which a process that lives for months would keep.

Its plain forms are parsed here; anything else is left to the full command line.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Final, NamedTuple

from keydist import __version__
from keydist.adapters.clock import SystemClock
from keydist.adapters.config import Config, load_config
from keydist.adapters.log import open_log, take_library_log
from keydist.adapters.systemd import ServiceManager
from keydist.daemon import Daemon
from keydist.errors import KeydistError, UsageError
from keydist.services.defect import defect

_VALUES: Final = {"--config": "config", "--token-file": "token_file", "--role": "role"}


class AgentOptions(NamedTuple):
    """The options of `keydist agent`."""

    config: str | None = None
    token_file: str | None = None
    role: str | None = None


def parse_plain(arguments: list[str]) -> AgentOptions | None:
    """Return the options, or None for anything but options with a value each."""
    found: dict[str, str] = {}
    for name, value in zip(arguments[::2], arguments[1::2], strict=False):
        if name not in _VALUES or not value or value.startswith("-"):
            return None
        found[_VALUES[name]] = value
    return AgentOptions(**found) if len(arguments) % 2 == 0 else None


def run(options: AgentOptions) -> int:
    """Run the agent of this node until it is told to end, and return the exit code."""
    log = open_log(sys.stderr, os.environ, now=SystemClock().stamp)
    take_library_log(log)

    def load() -> Config:
        overrides = {} if options.role is None else {"role": options.role}
        return load_config(options.config, environ=os.environ, overrides=overrides)

    async def work() -> None:
        if options.token_file == "-":  # noqa: S105 - a path
            raise UsageError("an agent reads its token again at each reload: standard input cannot be read twice")
        manager = ServiceManager(os.environ)
        await Daemon(
            load, version=__version__, environ=os.environ, token_file=options.token_file, log=log, manager=manager
        ).run()

    failure: KeydistError
    try:
        asyncio.run(work())
    except KeydistError as exc:
        failure = exc
    except Exception as exc:  # noqa: BLE001 - one line that says so: a traceback helps nobody who runs a node
        failure = defect(exc, while_="the agent ran")
    else:
        return 0
    log.event("failed", level="error", reason=failure)
    return failure.exit_code
