"""Every check by its name, in the order in which they are told; each is run whatever the others found."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.adapters.nats.monitoring import check_url
from keydist.core.doctor.verdict import Finding, Verdict, failing, unseen
from keydist.doctor import beside, here, store
from keydist.doctor.patient import CannotLookError, Patient
from keydist.errors import KeydistError, UsageError
from keydist.services.defect import defect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Check(NamedTuple):
    """A check: its name, what it looks at, and who looks."""

    name: str
    about: str
    look: Callable[[Patient], Verdict | Awaitable[Verdict]]


CHECKS: Final = (
    Check("configuration", "is read without an error; who may change it", here.configuration),
    Check("token", "where the bootstrap token comes from, its owner and mode; it is this keyset's", here.token),
    Check("state", "owners and modes of all that is in state_dir", here.state),
    Check("keyset", "the keyset on disk loads and is verified; this node may mint", here.keyset),
    Check("floor", "what keeps this node from going back is there", here.floor),
    Check("public-keys", "the public keys that verify old JWTs are kept", here.public_keys),
    Check("overdue", "rotations, keys to be dropped, rehearsals", here.late),
    Check("runtime", "runtime_dir: owner, mode; in memory where keys are sealed at rest", here.runtime),
    Check("space", "room for another keyset", here.space),
    Check("credentials", "the NATS credentials: owner, mode, until when they are good", here.credentials),
    Check("certificates", "this node's TLS files for NATS: owner, mode, until when they are good", here.certificates),
    Check("tls", "every NATS server talks TLS from the first byte; its certificate", store.tls),
    Check("store", "it answers, and holds what this node holds", store.store),
    Check("permissions", "this node's NATS user may do what its role needs", store.permissions),
    Check("excess", "this node's NATS user may do no more than that", store.excess),
    Check("bucket", "how the keyset's bucket is kept", store.bucket),
    Check("records", "how the node records' bucket is kept", store.records),
    Check("audit", "how the audit trail's stream is kept", store.audit),
    Check("replicas", "three copies of each stream, all current", store.replicas),
    Check("sync", "whether the NATS servers sync each write", store.sync),
    Check("clock", "this machine's clock against the server's", store.clock),
    Check("agent", "it answers at its socket, in this version, and looks at the store", beside.agent),
    Check("hooks", "each was told of the keyset in use", beside.hooks),
    Check("units", "systemd's units: installed, enabled, running, their exposure", beside.units),
    Check("fleet", "on a leader: who is silent, behind, or on an old token", store.fleet),
)


def chosen(names: Sequence[str]) -> tuple[Check, ...]:
    """Return the checks of these names, all of them for none, in their own order. Raises `UsageError`."""
    known = {check.name: check for check in CHECKS}
    for name in names:
        if name not in known:
            from difflib import get_close_matches  # noqa: PLC0415 - only for a name that is not known

            near = next(iter(get_close_matches(name[:64], known, n=1)), None)
            raise UsageError(
                "there is no check of that name",
                expected="a name of: keydist doctor --list",
                found=ascii(name[:64]),
                fix=f"did you mean {near}?" if near else "see: keydist doctor --list",
            )
    return tuple(check for check in CHECKS if not names or check.name in names)


def run(
    checks: Sequence[Check],
    *,
    config_path: str | None,
    token_file: str | None,
    environ: Mapping[str, str],
    monitors: Sequence[str],
    told: Callable[[Finding], None],
) -> None:
    """Run checks on this node; see `examine`. Raises `UsageError` for a monitor that is no address."""
    endpoints = tuple(check_url(url) for url in monitors)
    patient = Patient(config_path=config_path, token_file=token_file, environ=environ, monitors=endpoints)
    asyncio.run(examine(patient, checks, told=told))


async def examine(patient: Patient, checks: Sequence[Check], *, told: Callable[[Finding], None]) -> None:
    """Run checks one after the other; `told` hears what each came to. Raises what `told` raises."""
    try:
        for check in checks:
            told(Finding(check.name, await _verdict(check, patient)))
    finally:
        await patient.close()


async def _verdict(check: Check, patient: Patient) -> Verdict:
    """Return what a check came to, whatever happened to it."""
    try:
        found = check.look(patient)
        return await found if inspect.isawaitable(found) else found
    except CannotLookError as exc:
        return unseen(f"not looked at: see the check {exc.about}")
    except KeydistError as exc:
        return failing(exc)
    except Exception as exc:  # noqa: BLE001 - a defect in one check must not keep the others from their turn
        return failing(defect(exc, while_=f"the check {check.name} ran"))
