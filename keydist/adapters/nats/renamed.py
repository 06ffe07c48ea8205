"""A question to JetStream that other accounts import under another name: its own does not work across accounts.

Which one a user may use is found out by using it: its own name first, then the imported one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keydist.adapters.nats.bucket import IMPORTED_INFO, IMPORTED_READ
from keydist.errors import ForbiddenError

if TYPE_CHECKING:
    from keydist.adapters.nats.connection import Connection
    from keydist.adapters.nats.wire import Reply


class Renamed:
    """One question by both of its names; it goes on with the one that was answered."""

    def __init__(self, connection: Connection, own: str, imported: str) -> None:
        self._connection = connection
        self._name, self._other = own, imported

    async def ask(self, query: bytes = b"") -> Reply:
        """Ask, and return the answer. Raises `ForbiddenError` where neither name may be used, and as `request`.

        Where one may be used and nobody is there to answer, as in a region without its link, that is the answer.
        """
        try:
            return await self._connection.read(self._name, query)
        except ForbiddenError as forbidden:
            try:
                reply = await self._connection.read(self._other, query)
            except ForbiddenError:
                raise forbidden from None
            self._name, self._other = self._other, self._name
            return reply


def leader_read(connection: Connection, stream: str) -> Renamed:
    """Return the read of a message from the stream's leader."""
    return Renamed(connection, f"$JS.API.STREAM.MSG.GET.{stream}", IMPORTED_READ)


def stream_info(connection: Connection, stream: str) -> Renamed:
    """Return the question how a stream is configured, and what it holds."""
    return Renamed(connection, f"$JS.API.STREAM.INFO.{stream}", f"{IMPORTED_INFO}.{stream}")
