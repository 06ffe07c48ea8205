"""The bootstrap token: one text form, generated only, every refusal with its own words."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterator

import pytest

from keydist.core.token import MAX_FILE, BootstrapToken, format_token, generate_token, parse_token, parse_token_file
from keydist.errors import TokenError
from tests.material import OTHER_TOKEN, TOKEN, noise

TEXT = format_token(TOKEN)
OTHER_TEXT = format_token(OTHER_TOKEN)


def checked(body: str) -> str:
    """Return a token's text whose checksum is right, whatever the rest is."""
    return f"{body}_{zlib.crc32(body.encode()):08x}"


def with_secret(secret: bytes) -> str:
    text = base64.b32encode(secret).decode().rstrip("=").lower()
    return checked(f"kdt1_{TOKEN.token_id}_{text}")


def draws(*values: bytes) -> Callable[[int], bytes]:
    """Return a source of randomness that gives these values, which must have the sizes asked for."""
    left: Iterator[bytes] = iter(values)

    def random(size: int) -> bytes:
        value = next(left)
        assert len(value) == size
        return value

    return random


def test_a_token_has_the_documented_form() -> None:
    token = BootstrapToken(token_id="0123456789", secret=bytes(range(32)))
    assert format_token(token) == "kdt1_0123456789_aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypq_a73da42e"


def test_a_token_is_read_back() -> None:
    assert parse_token(TEXT) == TOKEN


LAST = TEXT[67]
PAD_SET = "abcdefghijklmnopqrstuvwxyz234567"["abcdefghijklmnopqrstuvwxyz234567".index(LAST) + 1]
REFUSALS = {
    "nothing": ("", "the token is empty"),
    "another kind of secret": ("kdt2" + TEXT[4:], "this is not a keydist token"),
    "upper case": (TEXT.upper(), "this is not a keydist token"),
    "white space before": (" " + TEXT, "this is not a keydist token"),
    "white space after": (TEXT + " ", "the token has the wrong length"),
    "cut": (TEXT[:-1], "the token has the wrong length"),
    "carriage return": (TEXT + "\r", "the token has the wrong length"),
    "first separator": (TEXT[:15] + "-" + TEXT[16:], "the token's parts are not separated by '_'"),
    "second separator": (TEXT[:68] + "-" + TEXT[69:], "the token's parts are not separated by '_'"),
    "id not hex": (TEXT[:5] + "g" + TEXT[6:], "the token id is not well formed"),
    "id in upper case": (TEXT[:5] + "A" + TEXT[6:], "the token id is not well formed"),
    "id in other digits": (TEXT[:5] + "\u0663" + TEXT[6:], "the token id is not well formed"),
    "secret not base32": (TEXT[:16] + "1" + TEXT[17:], "the token's secret is not base32"),
    "secret in upper case": (TEXT[:16] + "A" + TEXT[17:], "the token's secret is not base32"),
    "checksum not hex": (TEXT[:-1] + "g", "the token's checksum is not well formed"),
    "checksum in upper case": (TEXT[:-1] + "F", "the token's checksum is not well formed"),
    "altered secret": (
        TEXT[:16] + ("b" if TEXT[16] == "a" else "a") + TEXT[17:],
        "the token's checksum does not match: it was altered or cut",
    ),
    "altered id": (TEXT[:5] + "f" + TEXT[6:], "the token's checksum does not match: it was altered or cut"),
    "pad bits set": (checked(TEXT[:67] + PAD_SET), "the token's last secret character has pad bits set"),
    "17 distinct bytes": (
        with_secret(bytes(range(17)) + bytes(15)),
        "the token's secret repeats itself: it was not generated",
    ),
    "a passphrase": (
        with_secret(b"Sphinx of black quartz judge vow"),
        "the token's secret is text: passphrases are not accepted",
    ),
    "text up to both ends": (
        with_secret(bytes(range(0x20, 0x30)) + bytes(range(0x6F, 0x7F))),
        "the token's secret is text: passphrases are not accepted",
    ),
}


@pytest.mark.parametrize(("text", "message"), REFUSALS.values(), ids=REFUSALS)
def test_a_token_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(TokenError) as caught:
        parse_token(text)
    assert caught.value.message == message
    assert caught.value.fix


@pytest.mark.parametrize(
    "secret",
    [bytes(range(18)) + bytes(14), bytes(range(0x20, 0x3F)) + b"\x7f", bytes(range(0x20, 0x3F)) + b"\x1f"],
    ids=["18 distinct bytes", "all but one printable: DEL", "all but one printable: below space"],
)
def test_a_secret_just_inside_the_rules_is_taken(secret: bytes) -> None:
    assert parse_token(with_secret(secret)).secret == secret


@pytest.mark.parametrize(
    ("token_id", "secret", "message"),
    [
        ("0123456789a", noise("s", 32), "the token id is not well formed"),
        ("0123456789", noise("s", 31), "the token's secret has the wrong length"),
        ("0123456789", noise("s", 33), "the token's secret has the wrong length"),
    ],
)
def test_a_token_cannot_be_made_of_other_parts(token_id: str, secret: bytes, message: str) -> None:
    with pytest.raises(TokenError) as caught:
        BootstrapToken(token_id=token_id, secret=secret)
    assert caught.value.message == message


def test_a_generated_token_takes_id_and_secret_from_separate_draws() -> None:
    token = generate_token(draws(bytes.fromhex("00ff00ff00"), noise("s", 32)))
    assert token == BootstrapToken(token_id="00ff00ff00", secret=noise("s", 32))


def test_generating_draws_again_where_a_secret_would_be_refused() -> None:
    text = b"abcdefghijklmnopqrstuvwxyz012345"
    token = generate_token(draws(bytes(5), bytes(32), text, noise("s", 32)))
    assert token.secret == noise("s", 32)


@pytest.mark.parametrize(
    ("raw", "tokens"),
    [
        (TEXT, (TOKEN,)),
        (f"{TEXT}\n", (TOKEN,)),
        (f"{TEXT}\n{OTHER_TEXT}", (TOKEN, OTHER_TOKEN)),
        (f"{OTHER_TEXT}\n{TEXT}\n", (OTHER_TOKEN, TOKEN)),
    ],
    ids=["one", "one and a newline", "two", "two and a newline, the other way round"],
)
def test_a_token_file_holds_one_token_or_two(raw: str, tokens: tuple[BootstrapToken, ...]) -> None:
    assert parse_token_file(raw.encode()) == tokens


FILE_REFUSALS = {
    "nothing": (b"", "the token file is empty"),
    "a newline": (b"\n", "the token file is empty"),
    "spaces": (b" \n ", "the token file is empty"),
    "beyond the bound": (b" " * (MAX_FILE + 1), "the token file is too large"),
    "at the bound": (b" " * MAX_FILE, "the token file is empty"),
    "not ASCII": (b"\xef\xbb\xbf" + TEXT.encode(), "the token file is not ASCII text"),
    "an empty line": (f"{TEXT}\n\n".encode(), "the token is empty"),
    "three lines": (f"{TEXT}\n{OTHER_TEXT}\n{TEXT}\n".encode(), "the token file has too many lines"),
    "the same token twice": (f"{TEXT}\n{TEXT}\n".encode(), "both lines of the token file have one token id"),
    "lines end in CR LF": (f"{TEXT}\r\n".encode(), "the token has the wrong length"),
}


@pytest.mark.parametrize(("raw", "message"), FILE_REFUSALS.values(), ids=FILE_REFUSALS)
def test_a_token_file_is_refused_by_name(raw: bytes, message: str) -> None:
    with pytest.raises(TokenError) as caught:
        parse_token_file(raw)
    assert caught.value.message == message
