"""The checks of NATS: TLS, the store, what this user may do there, how the streams are kept, the server's time."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from keydist.adapters.nats.bucket import stream_name, trail_stream_name
from keydist.adapters.nats.greeting import greeting
from keydist.adapters.nats.monitoring import synced
from keydist.adapters.nats.records import NatsNodeRecords
from keydist.adapters.nats.rights import excessive_rights, needed_rights, shares_account
from keydist.adapters.nats.sight import Described, last_stored
from keydist.core.doctor import nats as judge
from keydist.core.doctor import times
from keydist.core.doctor.verdict import Verdict, failing, unseen, warning
from keydist.core.entry import Stored
from keydist.core.policy import Policy
from keydist.core.restart import Role
from keydist.doctor.patient import CannotLookError
from keydist.errors import ForbiddenError, KeydistError
from keydist.services import examine

if TYPE_CHECKING:
    from keydist.doctor.patient import Patient

_ASK_AS_OPERATOR = "run keydist doctor with the operator's credentials"
_ASK_ELSEWHERE = "run keydist doctor on a leader, or with the operator's credentials"


async def tls(patient: Patient) -> Verdict:
    """Judge how every configured server is talked to."""
    nats, now = patient.config.nats, patient.node.clock.now()
    found = [await asyncio.to_thread(greeting, url, nats.tls) for url in nats.servers]
    return judge.tls(found, is_asked_for=nats.tls is not None, now=now)


async def store(patient: Patient) -> Verdict:
    """Judge whether the store answers, and what it holds."""
    try:
        ports = patient.ports(await patient.connected())
    except CannotLookError as exc:
        if exc.about != "store":
            raise
        return failing(exc.why)
    local = patient.local_if_seen()
    if local is None or not patient.node.tokens:
        found = await ports.store.read(from_leader=True)
        what = f"holds {len(found.envelope)} bytes" if isinstance(found, Stored) else "holds no key that can be seen"
        return warning(f"it answers, and {what}; not compared: no token, or no state, can be read", "see token, state")
    return await examine.store(ports, local)


async def permissions(patient: Patient) -> Verdict:
    """Judge whether this user may do what its role needs."""
    connection, local = await patient.connected(), patient.local_if_seen()
    found = await needed_rights(
        connection,
        patient.names,
        patient.role,
        trail=patient.config.audit.stream,
        answers=local is not None and local.held is not None,
    )
    streams = (await patient.streams()).items()
    missing = {name for name, one in streams if isinstance(one, Described) and one.seen is None}
    return judge.needed(found, missing=missing, has_key=await _has_key(patient))


async def _has_key(patient: Patient) -> bool:
    """Tell whether the store holds anything: what nobody answers then has another reason."""
    ports = patient.ports(await patient.connected())
    for from_leader in (True, False):  # in a region without its link the mirror answers
        with suppress(KeydistError):
            if isinstance(await ports.store.read(from_leader=from_leader), Stored):
                return True
    return False


async def excess(patient: Patient) -> Verdict:
    """Judge whether this user may do more than its role needs."""
    connection = await patient.connected()
    found = await excessive_rights(connection, patient.names, patient.role)
    shares = await shares_account(connection, patient.names)
    return judge.excess(found or (), role=patient.role, shares_account=shares, is_refused=found is not None)


async def _stream(patient: Patient, name: str) -> Verdict:
    found = (await patient.streams())[name]
    if isinstance(found, ForbiddenError):
        is_trail = name == trail_stream_name(patient.config.nats.bucket)
        elsewhere = _ASK_AS_OPERATOR if is_trail or patient.role is Role.LEADER else _ASK_ELSEWHERE
        return unseen(f"how {name} is kept: this user may not ask", elsewhere)
    if isinstance(found, KeydistError):
        return failing(found)
    local = patient.local_if_seen()
    holds_key = name == stream_name(patient.config.nats.bucket)
    return judge.stream(found.seen, name=name, is_needed=holds_key and local is not None and local.held is not None)


async def bucket(patient: Patient) -> Verdict:
    """Judge how the keyset's bucket is kept."""
    return await _stream(patient, stream_name(patient.config.nats.bucket))


async def records(patient: Patient) -> Verdict:
    """Judge how the node records' bucket is kept."""
    return await _stream(patient, stream_name(f"{patient.config.nats.bucket}-nodes"))


async def audit(patient: Patient) -> Verdict:
    """Judge how the audit trail's stream is kept."""
    if not patient.config.audit.stream:
        return unseen("audit.stream is off: the trail stays on this node")
    return await _stream(patient, trail_stream_name(patient.config.nats.bucket))


async def replicas(patient: Patient) -> Verdict:
    """Judge how many copies of each stream there are."""
    connection, streams = await patient.connected(), await patient.streams()
    for one in streams.values():
        if isinstance(one, KeydistError) and not isinstance(one, ForbiddenError):
            return failing(one)
    found = [one.seen for one in streams.values() if isinstance(one, Described) and one.seen is not None]
    if not found and connection.is_clustered:
        return unseen("how many copies there are: this user may not ask, or there is no stream yet", _ASK_ELSEWHERE)
    return judge.replicas(found, is_clustered=connection.is_clustered)


async def sync(patient: Patient) -> Verdict:
    """Judge how often servers sync, where their monitoring endpoints are named."""
    return judge.sync([await asyncio.to_thread(synced, url) for url in patient.monitors])


async def clock(patient: Patient) -> Verdict:
    """Judge this machine's clock by the server's."""
    local, streams = patient.local_if_seen(), await patient.streams()
    policy = local.held.keyset.policy if local is not None and local.held is not None else Policy()
    offsets = [one.offset for one in streams.values() if isinstance(one, Described) and one.offset is not None]
    best = min(offsets, key=lambda one: one.error, default=None)
    stored = await last_stored(await patient.connected(), patient.names) if best is None else None
    return times.clock(best, stored=stored, now=patient.node.clock.now(), skew=policy.skew)


async def fleet(patient: Patient) -> Verdict:
    """Judge the other nodes, as a leader sees them."""
    if patient.role is not Role.LEADER:
        return unseen("only a leader sees the fleet", "run keydist doctor fleet on a leader")
    connection, local = await patient.connected(), patient.local_if_seen()
    if local is None or local.held is None or not patient.node.tokens:
        return unseen("records are sealed: without a keyset and a token nothing is seen of the fleet")
    found = NatsNodeRecords(connection, bucket=patient.config.nats.bucket)
    return await examine.fleet_seen(patient.ports(connection), found, local.held)
