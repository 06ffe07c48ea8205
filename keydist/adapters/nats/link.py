"""One client from its connection to its loss: requests and subscriptions that fail by name."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

import nats.errors
from nats.nuid import NUID

from keydist.adapters.nats.answers import NOBODY
from keydist.adapters.nats.denials import Denials
from keydist.adapters.nats.dialing import dial, refused
from keydist.adapters.nats.wire import (
    answers_ping,
    close_client,
    first_answer,
    first_of,
    give_up,
    heard_of,
    is_lost,
    reason_of,
    reply_of,
    settle,
    tasks_of,
)
from keydist.errors import StoreTimeoutError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from keydist.adapters.nats.connection import Server
    from keydist.adapters.nats.wire import Heard, Reply

    Callback = Callable[[Heard], bytes | None]

_MOST_PENDING: Final = 1000
_MOST_PENDING_BYTES: Final = 4 * 1024 * 1024
_GRACE_SECONDS: Final = 0.25
_AGAIN_SECONDS: Final = 2.0
_DOUBT_SECONDS: Final = 1.0
_PONG_SECONDS: Final = 2.0
_FLUSH_SECONDS: Final = 5
_FOR_EVER: Final = 3600.0
_RESERVED: Final = "_R_.keydist-doctor"


async def _unheard(_message: Msg) -> None:
    """Take what nobody is to hear."""


class _Answers:
    """What is answered to one question; `stop` is set once there is nothing to wait for.

    Anybody who hears the question can send what the server sends where nobody does: it ends the waiting only where no
    answer comes soon after it.
    """

    def __init__(self, stop: asyncio.Event, *, most: int, most_bytes: int) -> None:
        self.taken: list[bytes] = []
        self._stop = stop
        self._most = most
        self._most_bytes = most_bytes
        self._grace: asyncio.TimerHandle | None = None

    @property
    def is_nobody(self) -> bool:
        """Whether it was said that nobody listens."""
        return self._grace is not None

    async def hear(self, message: Msg) -> None:
        reply = reply_of(message)
        if reply.status == NOBODY and not reply.data:
            if self._grace is None:
                self._grace = asyncio.get_running_loop().call_later(_GRACE_SECONDS, self._end_if_none)
        elif len(self.taken) < self._most:
            self.taken.append(reply.data if len(reply.data) <= self._most_bytes else b"")
            if len(self.taken) == self._most:
                self._stop.set()

    def _end_if_none(self) -> None:
        if not self.taken:
            self._stop.set()

    def close(self) -> None:
        if self._grace is not None:
            self._grace.cancel()


class Link:
    """A connected client; `on_end` is called once, when it is lost unasked."""

    def __init__(self, server: Server, client: Client, denials: Denials, on_end: Callable[[], None]) -> None:
        self._server = server
        self._client = client
        self._denials = denials
        self._on_end = on_end
        self._has_ended = False
        self._subscribed: set[str] = set()
        self._tries = 0
        for task in tasks_of(client):
            task.add_done_callback(self._end)

    @classmethod
    async def dialled(cls, server: Server, *, seconds: float, on_end: Callable[[], None]) -> Link:
        """Return a new one. Errors as `dial`."""
        denials = Denials(server.node)
        return cls(server, await dial(server, seconds=seconds, told=denials.note), denials, on_end)

    def _end(self, task: asyncio.Task[object]) -> None:
        if not task.cancelled():
            task.exception()  # it is said to nobody else
        self._denials.wake()
        if not self._has_ended:
            self._has_ended = True
            self._on_end()

    @property
    def is_usable(self) -> bool:
        """Whether requests may be made: it is not lost, and answers may come."""
        return not is_lost(self._client) and not self._denials.are_of_inbox

    @property
    def is_clustered(self) -> bool:
        """Whether the server says that it is one of a cluster."""
        return bool(self._client._server_info.get("cluster"))  # noqa: SLF001 - nowhere else

    async def close(self) -> None:
        """Close it, whatever became of it. Never raises."""
        self._has_ended = True  # nobody is to be told
        await close_client(self._client)

    # --- asking --------------------------------------------------------------------------------

    async def request(
        self, subject: str, payload: bytes, *, headers: dict[str, str] | None, seconds: float, only_reads: bool = False
    ) -> Reply:
        """Return the answer; nobody listening is status 503. What only reads is asked again where no answer comes."""

        def ask() -> Coroutine[Any, Any, Msg]:
            # Not `request`, which takes a stored message with the header 'Status: 503' for 'nobody listens'. Its own
            # time is longer than there is: it would be over before what came meanwhile is read.
            return self._client._request_new_style(subject, payload, _FOR_EVER, headers)  # noqa: SLF001

        with self._denials.watched(subject) as stop:
            try:
                asking = first_answer(ask, every=_AGAIN_SECONDS) if only_reads else ask()
                message = await first_of(asking, self._until_vain(stop), seconds=seconds)
            except (nats.errors.TimeoutError, TimeoutError):
                message = None
            except (nats.errors.Error, OSError) as exc:
                self._raise_lost(exc)
        if message is not None:
            return reply_of(message)
        self._raise_denied_or_lost(subject)
        raise StoreTimeoutError(
            f"NATS at {self._server} did not answer in time",
            expected=f"an answer on {subject}",
            fix=(
                "a JetStream that is electing a leader answers within seconds: try again; one that stays silent may be"
                " off: a full disk ends it until nats-server is started again"
            ),
        )

    async def _until_vain(self, stop: asyncio.Event) -> None:
        """Return once no answer is to be waited for. One that does not come soon is a reason to ask who is there.

        Where a network swallows everything, nobody says so, and what it swallowed is sent again later and later: long
        after it is healed, a new connection is answered sooner.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_DOUBT_SECONDS):
                await stop.wait()
                return
        with suppress(nats.errors.Error, OSError):
            asking = answers_ping(self._client, seconds=_PONG_SECONDS)
            if await first_of(asking, stop.wait(), seconds=_PONG_SECONDS + 1) is False:
                await give_up(self._client)
        await stop.wait()

    async def ask_all(self, subject: str, *, seconds: float, most: int, most_bytes: int) -> tuple[bytes, ...]:
        """Return what `most` answers say within `seconds`, empty where too large; () where nobody listens.

        Somebody who listens and does not answer is a `StoreTimeoutError`.
        """
        with self._denials.watched(subject) as stop:
            answers = _Answers(stop, most=most, most_bytes=most_bytes)
            try:
                # All who hear the question see it: of the client's own names one tells the next.
                inbox = f"_INBOX_{self._server.node}.{NUID().next().decode()}"
                subscription = await self._client.subscribe(
                    inbox, cb=answers.hear, pending_msgs_limit=_MOST_PENDING, pending_bytes_limit=_MOST_PENDING_BYTES
                )
                try:
                    await self._client.publish(subject, reply=inbox)
                    async with asyncio.timeout(seconds):  # `wait_for` loses cancellations before Python 3.12
                        await stop.wait()
                finally:
                    with suppress(nats.errors.Error):
                        await subscription.unsubscribe()
            except (nats.errors.TimeoutError, TimeoutError):
                pass
            except (nats.errors.Error, OSError) as exc:
                self._raise_lost(exc)
            finally:
                answers.close()
        self._raise_denied_or_lost(subject)
        if not answers.taken and not answers.is_nobody:
            raise StoreTimeoutError(
                f"a node listens to {subject}, but does not answer",
                expected=f"an answer within {seconds:g} s",
                fix=f"try again; where it stays so, look for who asks {subject} all the time",
            )
        return tuple(answers.taken)

    async def may_publish(self, subject: str, payload: bytes, *, headers: dict[str, str] | None) -> bool | None:
        """Tell whether this user may publish a message, which goes to nobody; None where the server does not say.

        Its reply subject is one that servers keep for themselves: they check the subject first, then refuse the reply,
        and route nothing. Whoever is denied hears of the subject, whoever is allowed hears of the reply.
        """
        self._tries += 1
        reply = f"{_RESERVED}.{self._tries}"
        with self._denials.watched(subject):
            try:
                await self._client.publish(subject, payload, reply=reply, headers=headers)
                await settle(self._client, seconds=_FLUSH_SECONDS)
            except (nats.errors.Error, OSError) as exc:
                self._raise_lost(exc)
            if self._denials.is_publishing_denied(subject):
                return False
            return True if self._denials.is_reply_refused(reply) else None

    async def may_hear(self, subject: str) -> bool:
        """Tell whether this user may subscribe; what comes meanwhile is dropped."""
        try:
            subscription = await self._client.subscribe(subject, cb=_unheard)
            try:
                await settle(self._client, seconds=_FLUSH_SECONDS)
            finally:
                with suppress(nats.errors.Error):
                    await subscription.unsubscribe()
        except (nats.errors.Error, OSError) as exc:
            self._raise_lost(exc)
        return not self._denials.is_subscription_denied(subject)

    def _raise_denied_or_lost(self, subject: str) -> None:
        self._denials.raise_for(subject)
        if is_lost(self._client):
            self._raise_lost(None)

    def _raise_lost(self, failure: Exception | None) -> NoReturn:
        reason = self._client.last_error or failure
        if refusal := refused(self._server, (reason,)):
            raise refusal from failure
        raise UnreachableError(
            f"the connection to NATS at {self._server} was lost",
            found=reason_of(reason) if reason else "",
            fix="check that nats-server runs",
        ) from failure

    # --- hearing -------------------------------------------------------------------------------

    async def subscribe(self, table: Mapping[str, Callback]) -> bool:
        """Subscribe to what is in the table and was not subscribed to; tell whether there was any. Never raises.

        A callback's return value answers a question; it must not raise.
        """
        missing = {subject: callback for subject, callback in table.items() if subject not in self._subscribed}
        self._subscribed.update(missing)
        for subject, callback in missing.items():
            with suppress(nats.errors.Error, OSError):
                await self._client.subscribe(
                    subject,
                    cb=self._delivery(callback),
                    pending_msgs_limit=_MOST_PENDING,
                    pending_bytes_limit=_MOST_PENDING_BYTES,
                )
        return bool(missing)

    def _delivery(self, callback: Callback) -> Callable[[Msg], Awaitable[None]]:
        async def deliver(message: Msg) -> None:
            heard = heard_of(message)
            answer = callback(heard)
            if heard.is_question and answer is not None:
                await self._client.publish(message.reply, answer)

        return deliver

    def denied_subscriptions(self) -> tuple[str, ...]:
        """Return the subjects that the server does not let this user hear."""
        return tuple(sorted(subject for subject in self._subscribed if self._denials.is_subscription_denied(subject)))
