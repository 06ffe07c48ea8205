"""A region's link without a server behind it: what somebody says who stole a region's secrets."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Self

import nkeys  # type: ignore[import-untyped]

_SECONDS = 5.0


class Leaf:
    """A connection to the port for links; it says what a leaf node may say, and hears what comes back."""

    def __init__(self, port: int, *, seed: Path, context: ssl.SSLContext) -> None:
        self._port = port
        self._seed = seed
        self._context = context

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(_SECONDS):
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._context)
            info = json.loads((await self._reader.readline()).removeprefix(b"INFO "))
        pair = nkeys.from_seed(bytearray(self._seed.read_bytes()))
        signature = base64.urlsafe_b64encode(pair.sign(info["nonce"].encode())).rstrip(b"=").decode()
        told = {"nkey": pair.public_key.decode(), "sig": signature, "name": "thief", "server_id": "THIEF"}
        told |= {"headers": True, "jetstream": True, "domain": "thief", "is_spoke": True, "protocol": 1}
        self._writer.write(b"CONNECT " + json.dumps(told).encode() + b"\r\n")
        await self.heard(b"PONG")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()

    async def heard(self, mark: bytes) -> bytes:
        """Ask for a sign of life, and return what came before that, or until the connection ended."""
        self._writer.write(b"PING\r\n")
        said = b""
        async with asyncio.timeout(_SECONDS):
            with suppress(ConnectionError):  # it hangs up on who asks for what it may not have
                while mark not in said and (data := await self._reader.read(65_536)):
                    said += data
        return said

    async def publish(self, subject: str, data: bytes, *, reply: str = "") -> bytes:
        """Send a message, and return what the server says to that."""
        head = f"LMSG {subject} {reply + ' ' if reply else ''}{len(data)}\r\n"
        self._writer.write(head.encode() + data + b"\r\n")
        return await self.heard(b"PONG")

    async def subscribe(self, subject: str) -> bytes:
        """Ask for messages, and return what the server says to that."""
        self._writer.write(f"LS+ {subject}\r\n".encode())
        return await self.heard(b"PONG")
