"""JWS signatures against the examples of the standards: RFC 7515, appendices A.2 and A.3; RFC 8037, appendix A.4."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keydist.core import crypto
from keydist.core.crypto import PublicKey
from keydist.core.strict import b64url_decode
from tests.material import private_key, sig_key

CLAIMS = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"


def number(text: str) -> int:
    return int.from_bytes(b64url_decode(text, "a number"), "big")


RSA_EXAMPLE = rsa.RSAPublicNumbers(
    e=65537,
    n=number(
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yR"
        "T-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXB"
        "dQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9ia"
        "GNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
    ),
).public_key()
EC_EXAMPLE = ec.EllipticCurvePublicNumbers(
    curve=ec.SECP256R1(),
    x=number("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"),
    y=number("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"),
).public_key()
ED_EXAMPLE = ed25519.Ed25519PublicKey.from_public_bytes(
    b64url_decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "a key")
)

EXAMPLES: dict[str, tuple[str, PublicKey, str, str]] = {
    "RFC 7515 A.2": (
        "RS256",
        RSA_EXAMPLE,
        f"eyJhbGciOiJSUzI1NiJ9.{CLAIMS}",
        (
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdb"
            "F9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN938"
            "3LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWk"
            "WywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
        ),
    ),
    "RFC 7515 A.3": (
        "ES256",
        EC_EXAMPLE,
        f"eyJhbGciOiJFUzI1NiJ9.{CLAIMS}",
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    ),
    "RFC 8037 A.4": (
        "EdDSA",
        ED_EXAMPLE,
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    ),
}


def spki(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(("alg", "key", "signed", "signature"), EXAMPLES.values(), ids=EXAMPLES)
def test_the_standards_examples_verify(alg: str, key: PublicKey, signed: str, signature: str) -> None:
    message, raw = signed.encode("ascii"), b64url_decode(signature, "the signature")
    assert crypto.verify(spki(key), alg, message, raw)
    assert crypto.public_of_spki(spki(key), alg).spki == spki(key)


@pytest.mark.parametrize(("alg", "key", "signed", "signature"), EXAMPLES.values(), ids=EXAMPLES)
def test_nothing_that_differs_by_a_bit_verifies(alg: str, key: PublicKey, signed: str, signature: str) -> None:
    message, raw = signed.encode("ascii"), b64url_decode(signature, "the signature")
    for place in range(0, len(raw), 7):
        altered = raw[:place] + bytes([raw[place] ^ 0x10]) + raw[place + 1 :]
        assert not crypto.verify(spki(key), alg, message, altered)
    for wrong in (b"", raw[:-1], raw + b"\0", b"\0" + raw, bytes(len(raw)), raw * 2):
        assert not crypto.verify(spki(key), alg, message, wrong)
    assert not crypto.verify(spki(key), alg, message[:-1], raw)


@pytest.mark.parametrize("signature", [bytes(64), b"\xff" * 64, bytes(63) + b"\1", b"\1" + bytes(63)])
def test_a_p_256_signature_out_of_range_is_refused(signature: bytes) -> None:
    assert not crypto.verify(spki(EC_EXAMPLE), "ES256", b"message", signature)


def test_a_signature_by_another_key_is_refused() -> None:
    for alg in ("RS256", "PS256", "ES256", "EdDSA"):
        mine, other = ("rsa-a", "rsa-b") if alg in crypto.RSA_ALGS else ("A", "B")
        signature = crypto.sign(private_key(mine, alg), alg, b"message")
        assert crypto.verify(sig_key(mine, alg=alg).public.spki, alg, b"message", signature)
        assert not crypto.verify(sig_key(other, alg=alg).public.spki, alg, b"message", signature)
