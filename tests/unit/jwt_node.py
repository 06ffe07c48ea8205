"""A node whose keyset is confirmed, and JWTs that its keys and others made, for tests of commands."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest

from keydist.adapters.disk.records import format_confirmation
from keydist.core import crypto
from keydist.core.accept import Held
from keydist.core.jws import mint_compact
from keydist.core.keyset import Key, State
from keydist.core.local import Confirmation
from tests.material import chain
from tests.unit.cli_node import Answer, CliNode

ISSUER = "https://issuer.example"


def given(data: bytes | str) -> io.TextIOWrapper:
    """Return a standard input that holds these bytes."""
    return io.TextIOWrapper(io.BytesIO(data.encode() if isinstance(data, str) else data), encoding="utf-8")


def key_of(held: Held, state: State = State.ACTIVE, *, use: str = "sig") -> Key:
    """Return the first key of a state."""
    return next(key for key in held.keyset.keys if (key.use, key.state) == (use, state))


def signed(key: Key, *, typ: str = "JWT", **claims: Any) -> str:  # noqa: ANN401 - of any type
    """Return a JWT by a key that still has its private part; valid now, unless the claims say otherwise."""
    now = int(time.time())  # noqa: TID251 - commands run by the machine's clock
    usual = {"iss": ISSUER, "sub": "alice", "aud": "api", "iat": now, "exp": now + 600}
    private = crypto.load_private(key.material, key.alg, validate=False)
    return mint_compact(key, private, usual | claims, typ)


class JwtNode(CliNode):
    """A node that holds the second epoch of the usual history, confirmed by the store just now."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(directory, monkeypatch, capsys)
        self.configure(issuer=ISSUER)
        self.held = self.hold(2)
        self.confirm()

    def confirm(self) -> None:
        """Keep that the store confirmed the keyset just now."""
        held, now = self.held, int(time.time())  # noqa: TID251 - as above
        said = format_confirmation(Confirmation(epoch=held.keyset.epoch, digest=held.digest, at=now))
        file = self.state / "confirmed.json"
        file.write_bytes(said)  # as the disk does it, without the sync
        file.chmod(0o600)

    def verify(self, jwt: str | bytes, *options: str) -> Answer:
        """Verify what stands on standard input, for the usual audience."""
        return self.run("jwt", "verify", "--aud", "api", *options, stdin=given(jwt))

    @property
    def jwt(self) -> str:
        """A JWT that is valid."""
        return signed(key_of(self.held))


ROTATED = chain(3)[-1]
"""The epoch after the one that a `JwtNode` holds."""
