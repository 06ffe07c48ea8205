"""A round trip behind everything that a NATS client has sent."""

from __future__ import annotations

from nats.aio.client import Client


async def settled(client: Client) -> None:
    """Return once the server has taken what was sent, subscriptions too.

    Twice: nats-py writes the PING of `flush` at once, ahead of commands that it has yet to write: the first PONG may
    come before the server knows of a subscription. By then they are written, and the second one is behind them.
    """
    await client.flush()
    await client.flush()
