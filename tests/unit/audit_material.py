"""Audit records for tests: chains of the test material's cluster, and the keys that they are checked with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keydist import wiring
from keydist.adapters.config import Config
from keydist.core.accept import Held
from keydist.core.audit import Event, Fact, Link, Mint, Place, What, change
from keydist.core.audit_chain import Verifying
from keydist.core.audit_record import compose, parse_entry
from keydist.core.crypto import load_public
from keydist.ports import KeysetStore
from keydist.services.read_trail import kept_keys
from keydist.wiring import Machine, TrailPorts
from tests.fakes.memory_trail import MemoryTrailStream
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


def opening(stream: MemoryTrailStream, open_store: Callable[[Config], KeysetStore]) -> Callable[[Machine], TrailPorts]:
    """Return what opens the trail of a node whose stream is in memory; for `wiring.open_trail`."""

    def opened(node: Machine) -> TrailPorts:
        keys, store = kept_keys(node.disk), open_store(node.config)
        return TrailPorts(journal=wiring.journal(node), stream=stream, key_of=keys, store=store)

    return opened


def mint(number: int, *, kid: str = THREE[0].keyset.active.kid, sub: str = "alice") -> Mint:
    return Mint(sha256=noise(f"jwt {number}", 32), kid=kid, jti=str(number), sub=sub, aud=("api",), exp=NOW + number)
