"""What a JWT costs: `Signer.mint` and `Verifier.verify` beside cryptography alone, PyJWT and joserfc. One thread.

The whole public path of each is timed, keys parsed once, on a real state directory; cryptography alone is the bare
signature, or its check, of bytes that lie ready. In every round each contestant does a batch, in turn, so that a noisy
machine hits all of them; a speed is the median over the rounds of how often it fits into keydist's time.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import joserfc.jwt
import jwt as pyjwt
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc.jwk import ECKey, RSAKey

from keydist import Signer, Verifier
from keydist.adapters.entropy import SystemEntropy
from keydist.adapters.token_file import write_token
from keydist.core import crypto
from keydist.core.accept import Held, open_held
from keydist.core.jwk import public_jwk
from keydist.core.jws import parse_compact
from keydist.core.local import Confirmation
from keydist.core.pem import private_pem
from keydist.core.policy import Policy
from keydist.core.token import format_token, generate_token
from keydist.services.genesis import Beginning, first_envelope
from keydist.signing.opening import opened

ROUNDS: Final = int(os.environ.get("BENCH_ROUNDS", "60"))
BATCH_SECONDS: Final = 0.02
ISSUER, AUDIENCE, SUBJECT = "https://bench.example", "orders", "alice"
LEEWAY: Final = 60
OWN: Final = {"scope": "read write", "roles": ["buyer", "admin"], "jti": "0f6ce1c0c5a34e3d"}
REQUIRED: Final = ["iss", "sub", "aud", "exp", "iat"]

SIGNATURE: Final[dict[str, tuple[Any, ...]]] = {
    "RS256": (padding.PKCS1v15(), SHA256()),
    "ES256": (ec.ECDSA(SHA256()),),
}
JOSERFC: Final[dict[str, type[RSAKey | ECKey]]] = {"RS256": RSAKey, "ES256": ECKey}

Work = Callable[[], object]

CONFIG = """\
cluster: bench
node: node-a
role: leader
issuer: {issuer}
token_file: {root}/token
state_dir: {root}/state
runtime_dir: {root}/run
nats: {{servers: ["nats://127.0.0.1:1"]}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """How many times as fast as another keydist must be; `None` beside a name is a figure without a target."""

    what: str
    alg: str
    bits: int
    than: dict[str, float | None]


TARGETS: Final = (
    Target(what="mint", alg="RS256", bits=3072, than={"cryptography": 0.95, "PyJWT": None, "joserfc": None}),
    Target(what="verify", alg="RS256", bits=3072, than={"cryptography": None, "PyJWT": 1.5, "joserfc": 1.1}),
    Target(what="mint", alg="ES256", bits=0, than={"cryptography": None, "PyJWT": 1.0, "joserfc": 1.0}),
    Target(what="verify", alg="ES256", bits=0, than={"cryptography": None, "PyJWT": 1.0, "joserfc": 1.0}),
)


def install(root: Path, alg: str, bits: int) -> tuple[str, Held]:
    """Make a node with a first keyset on disk, confirmed just now; return its configuration and the keyset."""
    root.mkdir()
    config, token = root / "keydist.yaml", generate_token(os.urandom)
    write_token(str(root / "token"), format_token(token))
    config.write_text(CONFIG.format(root=root, issuer=ISSUER), encoding="utf-8")
    node = opened(str(config))
    beginning = Beginning(place=node.demands.place, token=token, policy=Policy(), alg=alg, bits=bits)
    envelope = asyncio.run(first_envelope(beginning, entropy=SystemEntropy(), clock=node.clock))
    held = open_held(envelope, node.demands)
    node.disk.install(held, based_on=node.load(), now=node.clock.now())
    node.disk.confirm(Confirmation(epoch=1, digest=held.digest, at=node.clock.now()))
    return str(config), held


def minting(signer: Signer, held: Held) -> dict[str, Work]:
    """Return what each contestant does to mint the same JWT."""
    key = held.keyset.active
    private = crypto.load_private(key.material, key.alg, validate=False)
    jwk = JOSERFC[key.alg].import_key(private_pem(key))
    header = {"alg": key.alg, "kid": key.kid, "typ": "JWT"}
    message = signer.mint(OWN, subject=SUBJECT, audience=AUDIENCE).rpartition(".")[0].encode("ascii")

    def claims() -> dict[str, Any]:
        now = int(time.time())
        return {"iss": ISSUER, "sub": SUBJECT, "aud": AUDIENCE, "exp": now + 900, "iat": now, **OWN}

    return {
        "keydist": lambda: signer.mint(OWN, subject=SUBJECT, audience=AUDIENCE, lifetime=900),
        "cryptography": lambda: private.sign(message, *SIGNATURE[key.alg]),
        "PyJWT": lambda: pyjwt.encode(claims(), private, algorithm=key.alg, headers={"kid": key.kid}),
        "joserfc": lambda: joserfc.jwt.encode(header, claims(), jwk, algorithms=[key.alg]),
    }


def verifying(verifier: Verifier, held: Held, token: str) -> dict[str, Work]:
    """Return what each contestant does to verify one JWT: signature, times, issuer and audience."""
    key = held.keyset.active
    public: Any = crypto.load_public(key.public.spki)
    jwk = JOSERFC[key.alg].import_key(dict(public_jwk(key)))
    parsed = parse_compact(token)
    signature = parsed.signature
    if key.alg == "ES256":
        signature = encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))

    def with_pyjwt() -> object:
        return pyjwt.decode(
            token,
            public,
            algorithms=[key.alg],
            audience=AUDIENCE,
            issuer=ISSUER,
            leeway=LEEWAY,
            options={"require": REQUIRED},
        )

    registry = joserfc.jwt.JWTClaimsRegistry(
        leeway=LEEWAY,
        iss={"essential": True, "value": ISSUER},
        aud={"essential": True, "value": AUDIENCE},
        sub={"essential": True},
        exp={"essential": True},
        iat={"essential": True},
    )

    def with_joserfc() -> object:
        decoded = joserfc.jwt.decode(token, jwk, algorithms=[key.alg])
        registry.validate(decoded.claims)
        return decoded

    return {
        "keydist": lambda: verifier.verify(token, audience=AUDIENCE, issuer=ISSUER),
        "cryptography": lambda: public.verify(signature, parsed.signed, *SIGNATURE[key.alg]),
        "PyJWT": with_pyjwt,
        "joserfc": with_joserfc,
    }


def timed(work: Work, times: int) -> float:
    """Return the microseconds of one piece of work, done so many times."""
    start = time.thread_time()
    for _ in range(times):
        work()
    return (time.thread_time() - start) * 1e6 / times


def compare(contestants: dict[str, Work]) -> dict[str, list[float]]:
    """Return each contestant's microseconds in each round, after a warm-up of three."""
    batch = max(1, round(BATCH_SECONDS * 1e6 / timed(contestants["keydist"], 20)))
    names = list(contestants)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(ROUNDS + 3):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            spent = timed(contestants[name], batch)
            if turn >= 3:
                found[name].append(spent)
    return found


def report(target: Target, found: dict[str, list[float]]) -> bool:
    """Print a row for each contestant; tell whether the targets were met."""
    ours, met = found["keydist"], True
    name = f"{target.what} {target.alg}" + (f" {target.bits}" if target.bits else "")
    print(f"{name:<18} keydist       {statistics.median(ours):8.1f} us")
    for other, times in found.items():
        if other == "keydist":
            continue
        ratio = statistics.median(theirs / mine for theirs, mine in zip(times, ours, strict=True))
        wanted = target.than[other]
        verdict = "" if wanted is None else f" (target {wanted}, {'met' if ratio >= wanted else 'MISSED'})"
        met = met and (wanted is None or ratio >= wanted)
        print(f"{'':<18} {other:<13} {statistics.median(times):8.1f} us   keydist is {ratio:.3f} x as fast{verdict}")
    return met


def main() -> None:
    """Measure and print; exit 1 where a target is missed."""
    met = True
    with tempfile.TemporaryDirectory() as directory:
        nodes: dict[str, tuple[str, Held]] = {}
        for target in TARGETS:
            if target.alg not in nodes:
                nodes[target.alg] = install(Path(directory) / target.alg, target.alg, target.bits)
            config, held = nodes[target.alg]
            with Signer.open(config) as signer:
                if target.what == "mint":
                    contestants = minting(signer, held)
                else:
                    token = signer.mint(OWN, subject=SUBJECT, audience=AUDIENCE, lifetime=86_400)
                    contestants = verifying(Verifier.open(config), held, token)
                met = report(target, compare(contestants)) and met
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
