"""From a node's configuration to the ports that the library needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from keydist.adapters.config import load_config
from keydist.core.token import BootstrapToken
from keydist.wiring import Machine, machine

if TYPE_CHECKING:
    from keydist.adapters.trail.spool import MintSpool

_REFRESH_SECONDS: Final = 3.0


def opened(config: str | None) -> Machine:
    """Return this node's ports by a configuration file's path, as the command line takes it. Raises `ConfigError`."""
    return machine(load_config(config, environ=os.environ, overrides={}), os.environ)


def trail_of(node: Machine) -> MintSpool | None:
    """Return where the audit trail's JWTs of this process go; None where they are not recorded."""
    if not node.config.audit.mints:
        return None
    from keydist.adapters.trail.spool import MintSpool as Spool  # noqa: PLC0415 - few record them

    return Spool(node.config.runtime_dir)


def tokens_of(node: Machine) -> Callable[[], tuple[BootstrapToken, ...]]:
    """Return what reads a node's tokens: a process that outlives a change of token must find the new one."""
    return lambda: machine(node.config, os.environ).tokens


def asks_agent(node: Machine) -> Callable[[], None]:
    """Return what has the agent of a node look at the store. Raises `KeydistError` where none answers in seconds."""

    def ask() -> None:
        from keydist.signing.remote import Agent  # noqa: PLC0415 - an HTTP client, for what is rare

        agent = Agent(node.config.socket.path, seconds=_REFRESH_SECONDS)
        try:
            agent.ask("POST", "/v1/refresh", {})
        finally:
            agent.close()

    return ask
