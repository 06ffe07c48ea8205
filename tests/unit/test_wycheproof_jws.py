"""Project Wycheproof's JSON Web Signatures through keydist's own functions; what is left out stands in a table.

The vectors are not part of the project: `KEYDIST_WYCHEPROOF` names the folder that holds them. Their headers have no
`typ`, so that keydist takes none of them whole; here the header may do without, and all else is keydist's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keydist.core import crypto
from keydist.core.jws import decode_segment, parse_compact, segments_of
from keydist.core.strict import b64url_decode, exact_members, parse_object
from keydist.errors import InvalidJwtError, KeydistError

FOLDER: Final = os.environ.get("KEYDIST_WYCHEPROOF", "")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="KEYDIST_WYCHEPROOF is unset: it names the folder of Wycheproof's testvectors_v1"
)
Jwk = dict[str, Any]


class Vector(NamedTuple):
    """One JWS, the keys that it is for, and whether Wycheproof calls it valid."""

    number: int
    what: str
    jws: str
    keys: list[Jwk]
    is_valid: bool

    @property
    def alg(self) -> str:
        """The algorithm of the first key, which is the only one where keydist has a say."""
        return str(self.keys[0].get("alg", "none given"))


def vectors(file: str) -> Iterator[Vector]:
    for group in json.loads((Path(FOLDER) / file).read_bytes())["testGroups"]:
        jwk = group.get("public") or group["private"]
        for case in group["tests"]:
            text = case.get("jws") or case.get("jwe", "")
            yield Vector(case["tcId"], case["comment"], text, jwk.get("keys", [jwk]), case["result"] == "valid")


def is_symmetric(vector: Vector) -> bool:
    return bool(vector.keys[0]["kty"] == "oct")


def is_of_another_hash(vector: Vector) -> bool:
    return vector.alg in ("RS384", "RS512", "PS384", "PS512", "ES521")


def is_about_the_jwk(vector: Vector) -> bool:
    key = vector.keys[0]
    is_enc = key.get("use") == "enc" or key.get("key_ops") == ["encrypt"]
    return bool(is_enc or (key["kty"] == "RSA" and "crv" in key))


def is_valid_under_another_algorithm(vector: Vector) -> bool:
    return vector.is_valid and vector.alg == "PS256" and vector.jws.startswith("eyJhbGciOiJQUzM4NCIs")  # PS384


def is_of_a_roca_key(vector: Vector) -> bool:
    return "Roca" in vector.what


WHY: Final[dict[str, Callable[[Vector], bool]]] = {
    "keydist has no symmetric key that signs: HS256 and the like are refused by name": is_symmetric,
    "keydist signs with SHA-256 and Ed25519 alone: the others are refused by name": is_of_another_hash,
    "keydist takes no JWK: what a key is, and that it signs, is said by the sealed keyset": is_about_the_jwk,
    "Wycheproof takes PS384 under a key of PS256; keydist goes by the key": is_valid_under_another_algorithm,
    "keydist looks for no ROCA keys: it makes its own, and takes none from elsewhere": is_of_a_roca_key,
}
LEFT_OUT: Final = {  # which vectors of each file, by the reasons above
    "json_web_signature_test.json": [
        [*range(1, 18), 348, 352, *range(357, 378)],
        [*range(264, 272), *range(320, 345), 347, 351],
        [353, 354, 355, 356],
        [346, 350],
        [],
    ],
    "json_web_crypto_test.json": [[*range(1, 18), 47, 48, 49, *range(50, 67)], [], [*range(67, 84)], [], [46]],
    "json_web_key_test.json": [[1, 2, 3, 4, *range(10, 19), 25, 26], [19], [6, 21, 24], [], [7]],
}
FILES: Final = tuple(LEFT_OUT)


def left_out(file: str) -> set[int]:
    return {number for numbers in LEFT_OUT[file] for number in numbers}


def spki_of(jwk: Jwk) -> bytes:
    """Return a JWK's public key as DER. Raises `ValueError` for a point that is on no curve."""
    numbers = {
        name: int.from_bytes(b64url_decode(jwk[name], name), "big") for name in ("n", "e", "x", "y") if name in jwk
    }
    public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    if jwk["kty"] == "RSA":
        public = rsa.RSAPublicNumbers(numbers["e"], numbers["n"]).public_key()
    else:
        curve = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}[jwk["crv"]]
        public = ec.EllipticCurvePublicNumbers(numbers["x"], numbers["y"], curve).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def verifies(vector: Vector) -> bool:
    """Tell whether keydist believes a JWS, but for its type and its claims."""
    (jwk,) = vector.keys
    try:
        head, body, tail = segments_of(vector.jws)
        header = parse_object(decode_segment(head, "header"), "header")
        exact_members(header, frozenset({"alg", "kid"}), frozenset(), "header")
        decode_segment(body, "claims")
        part = crypto.public_of_spki(spki_of(jwk), jwk["alg"])
        named = (header["alg"], header["kid"]) == (jwk["alg"], jwk["kid"])
        message = f"{head}.{body}".encode()
        return named and crypto.verify(part.spki, jwk["alg"], message, decode_segment(tail, "signature"))
    except (KeydistError, ValueError):
        return False


@pytest.mark.parametrize("file", FILES)
def test_json_web_signatures(file: str) -> None:
    run = [vector for vector in vectors(file) if vector.number not in left_out(file)]
    wrong = [(vector.number, vector.what) for vector in run if verifies(vector) != vector.is_valid]
    assert not wrong
    assert any(vector.is_valid for vector in run)
    assert len(run) >= {"json_web_signature_test.json": 320, "json_web_crypto_test.json": 28}.get(file, 6)


@pytest.mark.parametrize("file", FILES)
def test_the_list_of_what_is_left_out_is_exact(file: str) -> None:
    found: list[list[int]] = [[] for _ in WHY]
    for vector in vectors(file):
        reasons = [place for place, why in enumerate(WHY.values()) if why(vector)]
        if reasons:
            found[reasons[0]].append(vector.number)
    assert found == LEFT_OUT[file]


@pytest.mark.parametrize("file", FILES)
def test_none_of_them_is_taken_whole(file: str) -> None:
    for vector in vectors(file):
        with pytest.raises(InvalidJwtError):
            parse_compact(vector.jws)
