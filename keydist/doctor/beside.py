"""The checks of what runs beside a node: its agent, its hooks, the service manager's units."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from keydist import __version__
from keydist.adapters.doctor.files import file_at
from keydist.adapters.doctor.units import units as units_here
from keydist.adapters.hook_record import HookRecord, hook_id
from keydist.adapters.hooks import mark_of, name_of
from keydist.core.doctor import around
from keydist.core.doctor.verdict import Verdict, failing, fine, unseen, warning
from keydist.core.jwk import jwk_set
from keydist.core.strict import serialise
from keydist.errors import KeydistError, UnreachableError

if TYPE_CHECKING:
    from keydist.doctor.patient import Patient


def agent(patient: Patient) -> Verdict:
    """Judge the agent by its answer at the socket."""
    path, local = patient.config.socket.path, patient.local_if_seen()
    try:
        if file_at(path) is None:
            return warning(
                f"no agent runs: there is no {path}",
                "where one is to run: keydist agent, or systemctl enable --now keydist",
            )
        answer = patient.agent_answer()
    except UnreachableError as exc:
        denied = exc.found.startswith("permission denied")
        return unseen(f"{path}: this user may not connect", "run it as root") if denied else failing(exc)
    found = around.agent_of(answer, now=patient.node.clock.now())
    epoch = local.held.keyset.epoch if local is not None and local.held is not None else None
    return around.agent(found, version=__version__, resync=patient.config.resync, epoch=epoch)


def hooks(patient: Patient) -> Verdict:
    """Judge whether the hooks were told of the keyset in use."""
    config = patient.config
    if not config.hooks:
        return fine("none are configured")
    local = patient.local_if_seen()
    if local is None or local.held is None:
        return unseen("what they were told: no keyset can be seen")
    keyset = local.held.keyset
    told = patient.as_owner(HookRecord(config.state_dir).read)
    digest = hashlib.sha256(serialise(jwk_set(keyset))).hexdigest()
    found = [
        around.HookSeen(
            name_of(hook), told.get(hook_id(hook)) == mark_of(hook.on, kid=keyset.active.kid, jwks_digest=digest)
        )
        for hook in config.hooks
    ]
    try:
        patient.agent_answer()
    except KeydistError:
        return around.hooks(found, runs=False)
    return around.hooks(found, runs=True)


def units(_patient: Patient) -> Verdict:
    """Judge the units of keydist."""
    found = units_here()
    if found is None:
        return unseen("systemd does not run this machine, or does not answer")
    return around.units(found)
