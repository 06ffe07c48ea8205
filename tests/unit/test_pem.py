"""PEM as other programs read it: openssl opens both parts, and signs and verifies with them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from keydist.core import crypto
from keydist.core.pem import private_pem, public_pem
from keydist.errors import MalformedError
from tests.material import enc_key, private_key, sig_key

NAMED = [("rsa-a", "RS256"), ("rsa-a", "PS256"), ("A", "ES256"), ("A", "EdDSA")]


def openssl(*arguments: str, given: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=True).stdout


@pytest.mark.parametrize(("name", "alg"), NAMED)
def test_openssl_finds_the_same_public_key_in_both(name: str, alg: str) -> None:
    key = sig_key(name, alg=alg)
    assert openssl("pkey", "-pubout", given=private_pem(key)) == public_pem(key)
    assert openssl("pkey", "-pubin", "-pubout", given=public_pem(key)) == public_pem(key)


@pytest.mark.parametrize(("name", "alg"), NAMED)
def test_lines_are_of_64_characters(name: str, alg: str) -> None:
    for pem in (private_pem(sig_key(name, alg=alg)), public_pem(sig_key(name, alg=alg))):
        head, *body, tail, end = pem.decode("ascii").split("\n")
        assert re.fullmatch(r"-----BEGIN (PRIVATE|PUBLIC) KEY-----", head)
        assert tail == head.replace("BEGIN", "END")
        assert end == ""
        assert all(len(line) == 64 for line in body[:-1])
        assert 0 < len(body[-1]) <= 64


def test_openssl_verifies_what_keydist_signs(tmp_path: Path) -> None:
    key = sig_key("rsa-a", alg="RS256")
    (tmp_path / "public.pem").write_bytes(public_pem(key))
    signature = crypto.sign(private_key("rsa-a", "RS256"), "RS256", b"message")
    (tmp_path / "signature").write_bytes(signature)
    arguments = ("-verify", str(tmp_path / "public.pem"), "-signature", str(tmp_path / "signature"))
    assert openssl("dgst", "-sha256", *arguments, given=b"message") == b"Verified OK\n"


def test_the_secret_of_an_encryption_key_is_never_pem() -> None:
    for write in (private_pem, public_pem):
        with pytest.raises(MalformedError, match="symmetric"):
            write(enc_key("A"))
