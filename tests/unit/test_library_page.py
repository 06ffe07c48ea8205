"""docs/library.md: its examples run as they stand, and its ten lines keep a Starlette application."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keydist.adapters.clock import SystemClock
from keydist.core.local import Confirmation
from keydist.core.strict import b64url_encode, serialise
from keydist.core.token import format_token
from keydist.signing import MintsJwts, Signer, Verifier, VerifiesJwts
from tests.crash.state import StateDirectory
from tests.material import TOKEN, hold, make_keyset

PAGE = Path(__file__).parents[2] / "docs" / "library.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the examples leave behind, run one after the other beside the configuration of a node."""
    held = hold(make_keyset())
    state = StateDirectory(tmp_path).install(held)
    long_ago = SystemClock().now() - 2 * held.keyset.policy.freshness  # good for minting, not for saying 'unknown'
    state.disk().confirm(Confirmation(epoch=1, digest=held.digest, at=long_ago))
    token = tmp_path / "token"
    token.write_text(format_token(TOKEN))
    token.chmod(0o600)
    (tmp_path / "keydist.yaml").write_text(
        f"cluster: prod-eu1\nnode: n1\nstate_dir: {state.path}\nruntime_dir: {state.runtime}\n"
        f"token_file: {token}\nnats: {{servers: ['nats://127.0.0.1:1']}}\n"
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for example in EXAMPLES:
        exec(compile(example, PAGE.name, "exec"), names)  # noqa: S102 - the page's own examples
    yield names
    names["signer"].close()


async def get(app: Any, *headers: tuple[bytes, bytes]) -> tuple[int, bytes, dict[bytes, bytes]]:  # noqa: ANN401
    """Ask an ASGI application for /order; return its status, body and headers."""
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    scope = {"type": "http", "method": "GET", "path": "/order", "query_string": b"", "headers": list(headers)}
    await app(scope, receive, send)
    return said[0]["status"], said[1]["body"], dict(said[0]["headers"])


def ask(page: dict[str, Any], *headers: tuple[bytes, bytes]) -> tuple[int, bytes, dict[bytes, bytes]]:
    return asyncio.run(get(page["app"], *headers))


def test_the_examples_run(page: dict[str, Any]) -> None:
    assert len(EXAMPLES) >= 7
    mints: MintsJwts = page["signer"]
    verifies: VerifiesJwts = page["verifier"]
    assert (type(mints), type(verifies)) == (Signer, Verifier)


def test_the_dependency_has_ten_lines() -> None:
    body = next(example for example in EXAMPLES if "def caller" in example).partition("async def caller")[2]
    assert len(body.strip().splitlines()) - 1 <= 10


def test_the_application_lets_in_whom_it_shall(page: dict[str, Any]) -> None:
    bearer = b"Bearer " + page["jwt"].encode()
    assert ask(page, (b"authorization", bearer))[:2] == (200, b'{"for":"alice"}')
    for headers, challenge in (
        ([], b"Bearer"),
        ([(b"authorization", b"Basic eDp5")], b"Bearer"),
        ([(b"authorization", bearer[:-4] + b"AAAA")], b'Bearer error="invalid_token"'),
        ([(b"authorization", b"Bearer ")], b'Bearer error="invalid_token"'),
    ):
        status, _, answered = ask(page, *headers)
        assert (status, answered[b"www-authenticate"]) == (401, challenge)


def test_the_application_says_where_it_cannot_tell(page: dict[str, Any]) -> None:
    _, body, signature = page["jwt"].split(".")
    newer = b64url_encode(serialise({"alg": "EdDSA", "kid": "of-a-later-epoch", "typ": "JWT"}))
    status, _, answered = ask(page, (b"authorization", f"Bearer {newer}.{body}.{signature}".encode()))
    assert (status, answered[b"retry-after"]) == (503, b"1")
