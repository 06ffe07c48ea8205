"""The bootstrap token: `kdt1_<id: 10 hex>_<secret: 52 base32>_<crc32: 8 hex>`.

The id is public and independent of the secret: it tells 'wrong token' from 'tampered' without an oracle.
Tokens are generated only. HKDF does not stretch, so a secret that looks like a passphrase is refused.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from keydist.core.strict import is_hex
from keydist.errors import TokenError

SECRET_BYTES: Final = 32
ID_BYTES: Final = 5
MAX_FILE: Final = 4096
"""The largest token file, in bytes."""

_MIN_DISTINCT: Final = 18
_MAX_LINES: Final = 2
_LENGTH: Final = len("kdt1_") + 10 + 1 + 52 + 1 + 8
_BASE32: Final = frozenset("abcdefghijklmnopqrstuvwxyz234567")
_FIX: Final = "copy the whole token file again, or make a new token with: keydist token generate"


def _is_text(secret: bytes) -> bool:
    return secret.isascii() and secret.decode("ascii").isprintable()


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapToken:
    """A bootstrap token: a public id (10 hex digits) and a secret (32 bytes, never shown)."""

    token_id: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse a secret that was not generated."""
        if not is_hex(self.token_id, 2 * ID_BYTES):
            raise TokenError("the token id is not well formed", expected="10 hex digits", fix=_FIX)
        if len(self.secret) != SECRET_BYTES:
            raise TokenError("the token's secret has the wrong length", expected=f"{SECRET_BYTES} bytes", fix=_FIX)
        if len(set(self.secret)) < _MIN_DISTINCT:
            raise TokenError(
                "the token's secret repeats itself: it was not generated",
                expected=f"at least {_MIN_DISTINCT} distinct bytes",
                fix="make a token with: keydist token generate",
            )
        if _is_text(self.secret):
            raise TokenError(
                "the token's secret is text: passphrases are not accepted",
                expected="32 random bytes",
                fix="make a token with: keydist token generate",
            )


def generate_token(random: Callable[[int], bytes]) -> BootstrapToken:
    """Return a new token from `random(n)`, a source of n random bytes."""
    token_id = random(ID_BYTES).hex()
    while True:
        secret = random(SECRET_BYTES)
        if len(set(secret)) >= _MIN_DISTINCT and not _is_text(secret):
            return BootstrapToken(token_id=token_id, secret=secret)


def format_token(token: BootstrapToken) -> str:
    """Return the token's one text form. It is secret: write it only where the operator asked for it."""
    secret = base64.b32encode(token.secret).decode("ascii").rstrip("=").lower()
    body = f"kdt1_{token.token_id}_{secret}"
    return f"{body}_{zlib.crc32(body.encode('ascii')):08x}"


def parse_token(text: str) -> BootstrapToken:
    """Parse a token, without surrounding white space. Raises `TokenError`, one message a cause."""
    if not text:
        raise TokenError("the token is empty", expected="kdt1_<id>_<secret>_<checksum>", fix=_FIX)
    if not text.startswith("kdt1_"):
        raise TokenError("this is not a keydist token", expected="kdt1_<id>_<secret>_<checksum>", fix=_FIX)
    if len(text) != _LENGTH:
        raise TokenError(
            "the token has the wrong length", expected=f"{_LENGTH} characters", found=str(len(text)), fix=_FIX
        )
    token_id, secret_text, checksum = text[5:15], text[16:68], text[69:]
    if text[15] != "_" or text[68] != "_":
        raise TokenError(
            "the token's parts are not separated by '_'", expected="kdt1_<id>_<secret>_<checksum>", fix=_FIX
        )
    if not is_hex(token_id, 2 * ID_BYTES):
        raise TokenError("the token id is not well formed", expected="10 lower-case hex digits", fix=_FIX)
    if not _BASE32.issuperset(secret_text):
        raise TokenError("the token's secret is not base32", expected="52 characters of a-z and 2-7", fix=_FIX)
    if not is_hex(checksum, len(checksum)):
        raise TokenError("the token's checksum is not well formed", expected="8 lower-case hex digits", fix=_FIX)
    if int(checksum, 16) != zlib.crc32(text[:68].encode("ascii")):
        raise TokenError("the token's checksum does not match: it was altered or cut", fix=_FIX)
    secret = base64.b32decode(secret_text.upper() + "====")
    if base64.b32encode(secret).decode("ascii").rstrip("=").lower() != secret_text:
        raise TokenError("the token's last secret character has pad bits set", expected="four zero bits", fix=_FIX)
    return BootstrapToken(token_id=token_id, secret=secret)


def parse_token_file(raw: bytes) -> tuple[BootstrapToken, ...]:
    """Parse a token file: one token a line, one or two lines, the current or newer first or second.

    Raises `TokenError`.
    """
    if len(raw) > MAX_FILE:
        raise TokenError("the token file is too large", expected=f"at most {MAX_FILE} bytes", fix=_FIX)
    if not raw.isascii():  # asked, not caught: a UnicodeDecodeError carries the bytes, which are secret
        raise TokenError("the token file is not ASCII text", fix=_FIX)
    text = raw.decode("ascii")
    if not text.strip():
        raise TokenError("the token file is empty", expected="one or two tokens, one a line", fix=_FIX)
    lines = text.removesuffix("\n").split("\n")
    if len(lines) > _MAX_LINES:
        raise TokenError(
            "the token file has too many lines",
            expected="one token, or two while a token is being replaced",
            found=f"{len(lines)} lines",
            fix="keep the current token and the new one",
        )
    tokens = tuple(parse_token(line) for line in lines)
    if len({token.token_id for token in tokens}) != len(tokens):
        raise TokenError("both lines of the token file have one token id", fix="remove one of the two lines")
    return tokens
