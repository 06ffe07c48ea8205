"""Audit records for tests: chains of the test material's cluster, and the keys that they are checked with."""

from __future__ import annotations

from collections.abc import Sequence

from keydist.core.accept import Held
from keydist.core.audit import Event, Fact, Link, Mint, Place, What, change, compose, parse_entry
from keydist.core.audit_chain import Verifying
from keydist.core.crypto import load_public
from tests.material import NOW, PLACE, chain, noise

NODE = Place(cluster=PLACE.cluster, node="node-a")
WHO: dict[str, Fact] = {"uid": 7, "program": "agent"}
CHAIN = "00112233aabbccdd"
THREE = chain(3)


def event_of(held: Held, what: What = What.EPOCH) -> Event:
    return Event(what=what, held=held, how="written", facts=change(None, held))


def chained(
    events: Sequence[Event] | None = None,
    *,
    place: Place = NODE,
    link: Link | None = None,
) -> list[bytes]:
    """Return the records of events (three epochs), linked, from the first on or behind `link`."""
    link = link or Link(chain=CHAIN)
    records = []
    for event in events if events is not None else [event_of(held) for held in THREE]:
        records.append(compose(event, place, link, at=NOW + link.seq, who=WHO))
        link = parse_entry(records[-1]).link
    return records


def key_of(kid: str) -> Verifying | None:
    """Return any public key of the test material's usual history."""
    for held in THREE:
        for key in held.keyset.signing_keys():
            if key.kid == kid:
                return Verifying(load_public(key.public.spki), key.alg)
    return None


def mint(number: int, *, kid: str = THREE[0].keyset.active.kid, sub: str = "alice") -> Mint:
    return Mint(sha256=noise(f"jwt {number}", 32), kid=kid, jti=str(number), sub=sub, aud=("api",), exp=NOW + number)
