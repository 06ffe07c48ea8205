"""Listening, for as long as the agent runs: an address that cannot be had is an alarm, and is tried again.

A Unix socket that was removed or replaced is made again: whoever connects by its name would not get here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.adapters.http.guard import Crowd, Limits
from keydist.adapters.http.listener import listen
from keydist.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from keydist.adapters.http.listener import Address, Listener, Places
    from keydist.ports import Clock, Journal
    from keydist.serving.answers import App

_RETRY_SECONDS: Final = 2.0


class Served(NamedTuple):
    """An application and where it is served."""

    what: str
    address: Address
    app: App


class Servers:
    """Everything that one agent serves."""

    def __init__(
        self,
        served: tuple[Served, ...],
        *,
        clock: Clock,
        log: Journal,
        limits: Limits | None = None,
        prepare: Callable[[], object] = tuple,
        places: Places | None = None,
    ) -> None:
        """`prepare` is called before each attempt to listen; `places` keeps the sockets for who serves them next."""
        self._served = served
        self._prepare = prepare
        self._places = places
        self._clock = clock
        self._log = log
        self._limits = limits or Limits()
        self._alarms: dict[str, ListenError] = {}

    def alarms(self) -> tuple[ListenError, ...]:
        """Return why what should be served is not."""
        return tuple(self._alarms.values())

    async def run(self) -> NoReturn:
        """Serve until cancelled."""
        if self._places is not None:
            self._places.leave(but=[served.address for served in self._served])
        open_: dict[str, Listener] = {}
        again = -math.inf
        try:
            while True:
                for what in [what for what, listener in open_.items() if not listener.is_in_place()]:
                    open_.pop(what).close()
                if len(open_) < len(self._served) and self._clock.monotonic() >= again:
                    again = self._clock.monotonic() + _RETRY_SECONDS
                    self._listen(open_)
                for listener in open_.values():
                    listener.sweep()
                await self._clock.sleep(self._limits.sweep_seconds)
        finally:
            for listener in open_.values():
                listener.close()

    def _listen(self, open_: dict[str, Listener]) -> None:
        self._prepare()
        for served in self._served:
            if served.what in open_:
                continue
            try:
                listener = listen(served.address, Crowd(served.app, self._clock, self._limits), self._places)
            except ListenError as exc:
                self._alarms[served.what] = exc
            else:
                self._alarms.pop(served.what, None)
                if listener.trouble is not None:
                    self._alarms[served.what] = listener.trouble
                open_[served.what] = listener
                self._log.event("serving", what=served.what, at=listener.name)
