"""JWEs of sensitive claims: one form, exact keys, and joserfc on the other side."""

from __future__ import annotations

from typing import Any

import pytest
from joserfc import jwe as joserfc_jwe
from joserfc.jwk import OctKey

from keydist.core import crypto
from keydist.core.compact import compact_jwe
from keydist.core.jwe import (
    MAX_JWE,
    MAX_PLAINTEXT,
    decrypt_jwe,
    decryption_key,
    encrypt_jwe,
    encryption_key_of,
    parse_jwe,
)
from keydist.core.keyset import Key, State
from keydist.core.strict import b64url_encode, serialise
from keydist.errors import InvalidJweError, NotYetError, UsageError
from tests.material import Change, chain, enc_key, extend, noise

SECRET = b'{"iban":"DE02"}'
KEY = enc_key("A")
IV = noise("iv", 12)
JWE = encrypt_jwe(SECRET, KEY, iv=IV)
HEADER: dict[str, Any] = {"alg": "dir", "enc": "A256GCM", "kid": KEY.kid, "typ": "JWE"}


def made(header: object = None, *, key: Key = KEY, iv: bytes = IV, raw: bytes | None = None) -> str:
    """Return a JWE that authenticates, whatever its header says."""
    aad = b64url_encode(raw if raw is not None else serialise(HEADER if header is None else header)).encode()  # type: ignore[arg-type]
    return compact_jwe(aad, iv, crypto.encrypt(key.material, iv, SECRET, aad)).decode()


def opened(text: str) -> bytes:
    return decrypt_jwe(parse_jwe(text.encode("utf-8")), KEY)


@pytest.mark.parametrize("size", [0, 1, MAX_PLAINTEXT])
def test_what_was_encrypted_comes_back(size: int) -> None:
    plaintext = noise("plain", size)
    assert opened(encrypt_jwe(plaintext, KEY, iv=IV)) == plaintext


def test_the_largest_plaintext_is_not_exceeded() -> None:
    with pytest.raises(UsageError, match="too large"):
        encrypt_jwe(bytes(MAX_PLAINTEXT + 1), KEY, iv=IV)
    aad = b64url_encode(serialise(HEADER)).encode()
    larger = compact_jwe(aad, IV, crypto.encrypt(KEY.material, IV, bytes(MAX_PLAINTEXT + 1), aad)).decode()
    assert len(larger) < MAX_JWE
    with pytest.raises(InvalidJweError, match="too large"):
        opened(larger)


def test_joserfc_opens_what_keydist_makes() -> None:
    found = joserfc_jwe.decrypt_compact(JWE, OctKey.import_key(KEY.material), algorithms=["dir", "A256GCM"])
    assert (found.plaintext, dict(found.headers())) == (SECRET, HEADER)


def test_keydist_opens_what_joserfc_makes() -> None:
    key = OctKey.import_key(KEY.material)
    text = joserfc_jwe.encrypt_compact(HEADER, SECRET, key, algorithms=["dir", "A256GCM"])
    assert opened(text) == SECRET


HEAD, _, IV_TEXT, BODY, TAG = JWE.split(".")
HOSTILE: dict[str, str] = {
    "nothing": "",
    "only dots": "....",
    "a JWT": f"{HEAD}.{BODY}.{TAG}",
    "six segments": f"{JWE}.",
    "an encrypted key": f"{HEAD}.AAAA.{IV_TEXT}.{BODY}.{TAG}",
    "a newline inside": f"{HEAD}..{IV_TEXT}.{BODY[:4]}\n{BODY[4:]}.{TAG}",
    "a newline behind": f"{JWE}\n",
    "a space before": f" {JWE}",
    "padding": f"{HEAD}..{IV_TEXT}.{BODY}.{TAG}==",
    "the other alphabet": f"{HEAD}..{IV_TEXT}.{BODY}.{TAG[:-2]}+/",
    "spare bits": f"{HEAD}..{IV_TEXT}.{BODY}.{TAG[:-1]}{chr(ord(TAG[-1]) + 1)}",
    "letters that are no ASCII": f"{JWE[:-1]}é",
    "a short IV": made(iv=bytes(12)).replace(b64url_encode(bytes(12)), b64url_encode(bytes(11))),
    "a short tag": f"{HEAD}..{IV_TEXT}.{BODY}.{TAG[:-4]}",
    "too long": f"{HEAD}..{IV_TEXT}.{'A' * MAX_JWE}.{TAG}",
    "a header too long": made(HEADER | {"typ": "J" * 300}),
    "a header that is no JSON": made(raw=b"{"),
    "a header with alg twice": made(raw=serialise(HEADER)[:-1] + b',"alg":"dir"}'),
    "no typ": made({name: value for name, value in HEADER.items() if name != "typ"}),
    "another typ": made(HEADER | {"typ": "JWT"}),
    "the typ of an envelope": made(HEADER | {"typ": "keydist-keyset+jwe"}),
    "another alg": made(HEADER | {"alg": "A256KW"}),
    "another enc": made(HEADER | {"enc": "A128GCM"}),
    "zip": made(HEADER | {"zip": "DEF"}),
    "crit": made(HEADER | {"crit": ["exp"]}),
    "jku": made(HEADER | {"jku": "https://evil"}),
    "a kid that is a number": made(HEADER | {"kid": 1}),
    "the kid of a signing key": made(HEADER | {"kid": "A" * 43}),
    "a kid that is a path": made(HEADER | {"kid": "../../../../dev/nullxx"}),
    "a tag altered": f"{HEAD}..{IV_TEXT}.{BODY}.{'B' if TAG[0] == 'A' else 'A'}{TAG[1:]}",
    "a ciphertext altered": f"{HEAD}..{IV_TEXT}.{'B' if BODY[0] == 'A' else 'A'}{BODY[1:]}.{TAG}",
    "an IV altered": f"{HEAD}..{'B' if IV_TEXT[0] == 'A' else 'A'}{IV_TEXT[1:]}.{BODY}.{TAG}",
    "a header in another order": f"{b64url_encode(serialise(dict(reversed(HEADER.items()))))}..{IV_TEXT}.{BODY}.{TAG}",
    "another key": made(key=enc_key("B")),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_is_not_of_the_one_form_or_was_altered_is_refused(text: str) -> None:
    with pytest.raises(InvalidJweError) as caught:
        opened(text)
    assert "iban" not in str(caught.value)
    assert caught.value.__cause__ is None


# --- keys ---------------------------------------------------------------------------------------

ROTATED = chain(2)[-1].keyset
NOTHING: frozenset[str] = frozenset()


def jwe_of(key: Key) -> str:
    return encrypt_jwe(SECRET, key, iv=IV)


def test_the_active_key_encrypts() -> None:
    key = encryption_key_of(ROTATED, NOTHING)
    assert (key.use, key.state) == ("enc", State.ACTIVE)


def test_a_key_that_the_floor_knows_revoked_does_not_encrypt() -> None:
    with pytest.raises(NotYetError, match="revoked"):
        encryption_key_of(ROTATED, {encryption_key_of(ROTATED, NOTHING).kid})


@pytest.mark.parametrize("state", [State.NEXT, State.ACTIVE, State.RETIRED])
def test_every_listed_key_decrypts_what_names_it(state: State) -> None:
    key = next(key for key in ROTATED.keys if (key.use, key.state) == ("enc", state))
    jwe = parse_jwe(jwe_of(key).encode())
    assert decryption_key(jwe, ROTATED, NOTHING) == key
    assert decrypt_jwe(jwe, key) == SECRET


def test_a_kid_is_looked_up_exactly() -> None:
    assert decryption_key(parse_jwe(jwe_of(enc_key("elsewhere")).encode()), ROTATED, NOTHING) is None
    kid = encryption_key_of(ROTATED, NOTHING).kid
    swapped = made(HEADER | {"kid": kid[:-1].swapcase() + kid[-1]})
    assert decryption_key(parse_jwe(swapped.encode()), ROTATED, NOTHING) is None


def test_a_revoked_key_decrypts_nothing_whoever_remembers_it() -> None:
    key = encryption_key_of(ROTATED, NOTHING)
    jwe = parse_jwe(jwe_of(key).encode())
    after = extend(chain(2)[-1], Change.REVOKE_ACTIVE).keyset
    assert key.kid in {entry.kid for entry in after.revoked}
    for keyset, floor in ((after, NOTHING), (ROTATED, frozenset({key.kid}))):
        with pytest.raises(InvalidJweError, match="revoked"):
            decryption_key(jwe, keyset, floor)


def test_nothing_shows_a_plaintext_or_a_key() -> None:
    jwe = parse_jwe(JWE.encode())
    assert repr(jwe) == f"Jwe(kid='{KEY.kid}')"
    assert str(KEY.material) not in repr(jwe.parts) + repr(KEY)
