"""What the server says that this user may not do, and who waits to hear it: nats-py reports it as a timeout."""

from __future__ import annotations

import asyncio
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from keydist.errors import ForbiddenError

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEPT: Final = 16
_SUBSCRIPTION: Final = re.compile(r'subscription to "([^"]*)"')


class Denials:
    """The denials of one connection: the next one may be allowed more."""

    def __init__(self, node: str) -> None:
        self._inbox = f"_inbox_{node}.".lower()
        self._publishing: list[str] = []
        self._subscribing: dict[str, str] = {}
        self._waiting: dict[asyncio.Event, str] = {}

    def note(self, exc: Exception) -> None:
        """Take what nats-py reports; of denials, bounded, and of anything else nothing. Never raises."""
        text = str(exc).lower()
        if "permissions violation" not in text:
            return
        if found := _SUBSCRIPTION.search(text):
            if len(self._subscribing) < _KEPT:
                self._subscribing[found[1]] = text
        else:
            self._publishing = [*self._publishing[1 - _KEPT :], text]
        for event, subject in self._waiting.items():
            if self._text(subject) is not None:
                event.set()

    def _text(self, subject: str) -> str | None:
        """Return the server's words where it denied publishing `subject`, or the inbox that answers come to."""
        asked = f'publish to "{subject.lower()}"'
        return self._inbox_denied() or next((text for text in self._publishing if asked in text), None)

    def _inbox_denied(self) -> str | None:
        return next((text for name, text in self._subscribing.items() if name.startswith(self._inbox)), None)

    @property
    def are_of_inbox(self) -> bool:
        """Whether no answer can come to this connection."""
        return self._inbox_denied() is not None

    def is_subscription_denied(self, subject: str) -> bool:
        """Tell whether a subscription was denied."""
        return subject.lower() in self._subscribing

    def is_publishing_denied(self, subject: str) -> bool:
        """Tell whether publishing a subject was denied lately."""
        asked = f'publish to "{subject.lower()}"'
        return any(asked in text for text in self._publishing)

    def is_reply_refused(self, reply: str) -> bool:
        """Tell whether a message was refused for its reply subject alone, lately."""
        asked = f'reply of "{reply.lower()}"'
        return any(asked in text for text in self._publishing)

    @contextmanager
    def watched(self, subject: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set where using `subject` is denied from now on; see `wake`."""
        asked = f'publish to "{subject.lower()}"'
        self._publishing = [text for text in self._publishing if asked not in text]
        event = asyncio.Event()
        self._waiting[event] = subject
        try:
            yield event
        finally:
            del self._waiting[event]

    def wake(self) -> None:
        """Wake everybody who waits: the connection is lost."""
        for event in self._waiting:
            event.set()

    def raise_for(self, subject: str) -> None:
        """Raise `ForbiddenError` where using `subject` was denied."""
        text = self._text(subject)
        if text is not None:
            raise ForbiddenError(
                f"NATS does not allow this node to use {subject}",
                expected="a permission for it",
                found=text.removeprefix("nats: "),
                fix="compare the user's permissions, and its account's imports, with docs/nats.md",
            )
