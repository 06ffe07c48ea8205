"""The checks of this machine: configuration, tokens, state and runtime directories, room, credentials' files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keydist.adapters.doctor.files import below, file_at, filesystem_of, room_at
from keydist.adapters.nats.credentials import credential_options, tls_context
from keydist.adapters.nats.expiry import term_of_authorities, term_of_chain, term_of_creds
from keydist.adapters.nats.greeting import is_local
from keydist.adapters.token_file import find_token_file
from keydist.core.doctor import files, times
from keydist.core.doctor.verdict import Verdict, fine, together, unseen, warning
from keydist.errors import KeydistError
from keydist.services import examine
from keydist.wiring import group_id

if TYPE_CHECKING:
    from keydist.doctor.patient import Patient


def configuration(patient: Patient) -> Verdict:
    """Judge the configuration and who may change it."""
    config = patient.settled()
    for name, field in ((config.group, "group"), (config.socket.group, "socket.group")):
        if name is not None:
            group_id(name, field)
    found = file_at(patient.config_path, follow=True)
    judged = files.config_file(found, path=patient.config_path, reader=patient.owner)
    return judged._replace(detail=f"{config.node}, {config.role} of {config.cluster}; {judged.detail}")


def token(patient: Patient) -> Verdict:
    """Judge where the bootstrap tokens come from, and that they are this keyset's."""
    node = patient.node
    try:
        source = find_token_file(patient.token_file, patient.environ, node.config.token_file).path
        found = file_at(source, follow=True)
        where = source if found is None else f"{source}, mode {found.mode:04o}, owner {found.uid}"
        if found is not None and patient.owner not in (0, found.uid):
            where += f" (user {patient.owner} has it from systemd, if at all)"
    except KeydistError:
        where = "no token file"
    local = patient.local_if_seen()
    return examine.token(node.tokens, node.token_error, local, source=where, owns=patient.me == 0)


def state(patient: Patient) -> Verdict:
    """Judge owners and modes of everything in the state directory."""
    config, root = patient.config, patient.state_root()
    entries = below(config.state_dir) if root is not None and root.kind == "directory" else ()
    gid = None if config.group is None else group_id(config.group, "group")
    return files.state(root, entries, path=config.state_dir, me=patient.me, group=gid)


def _unowned(patient: Patient) -> Verdict | None:
    if patient.owns:
        return None
    return unseen(
        f"{patient.config.state_dir} cannot be read by user {patient.me}",
        f"run keydist doctor as user {patient.owner}, or as root",
    )


def keyset(patient: Patient) -> Verdict:
    """Judge the keyset on disk."""
    return _unowned(patient) or examine.keyset(patient.local, now=patient.node.clock.now())


def floor(patient: Patient) -> Verdict:
    """Judge what keeps this node from going back."""
    return _unowned(patient) or examine.floor(patient.local)


def public_keys(patient: Patient) -> Verdict:
    """Judge the public keys that are kept."""
    return _unowned(patient) or patient.as_owner(lambda: examine.public_keys(patient.node.disk, patient.local))


def late(patient: Patient) -> Verdict:
    """Judge what is overdue."""
    if (blind := _unowned(patient)) is not None:
        return blind
    node = patient.node
    return examine.late(
        patient.local,
        patient.as_owner(node.disk.notes),
        now=node.clock.now(),
        rehearse_every=node.config.rehearse_every,
        leads=node.config.role == "leader",
    )


def runtime(patient: Patient) -> Verdict:
    """Judge the runtime directory and what it is on."""
    config = patient.config
    root = file_at(config.runtime_dir)
    pem = None
    if root is not None and patient.me in (0, root.uid):
        pem = file_at(f"{config.runtime_dir}/{files.PEM}")
    return files.runtime(
        root,
        pem,
        path=config.runtime_dir,
        sealed=config.at_rest == "sealed",
        filesystem=filesystem_of(config.runtime_dir),
        me=patient.me,
    )


def space(patient: Patient) -> Verdict:
    """Judge the room for the state directory."""
    path = patient.config.state_dir
    room = room_at(path)
    return files.space(path=path, free=room.free, files=room.files, read_only=room.read_only)


def credentials(patient: Patient) -> Verdict:
    """Judge who this node is to NATS: the file, and until when it is good."""
    nats, now = patient.config.nats, patient.node.clock.now()
    path, setting = nats.creds_file or nats.nkey_file, "nats.creds_file" if nats.creds_file else "nats.nkey_file"
    if path is None:
        if nats.tls is not None and nats.tls.cert_file:
            return fine("by client certificate only; see certificates")
        if all(is_local(url) for url in nats.servers):
            return fine("none: whoever is on this machine may connect")
        return warning("none: the NATS servers let everybody in", "give this node a user of its own (docs/nats.md)")
    wrong = files.secret_file(file_at(path, follow=True), path=path, setting=setting, reader=patient.owner)
    if wrong is not None:
        return wrong
    credential_options(creds_file=nats.creds_file, nkey_file=nats.nkey_file)
    if nats.creds_file is None:
        return fine(f"{path}, an nkey, which does not expire")
    return times.credentials(path, term_of_creds(nats.creds_file), now=now)


def certificates(patient: Patient) -> Verdict:
    """Judge this node's own certificate for NATS, its key, and the authorities that it trusts."""
    tls, now = patient.config.nats.tls, patient.node.clock.now()
    if tls is None:
        return fine("none: nats.tls is not set")
    several = []
    if tls.cert_file and tls.key_file:
        wrong = files.secret_file(
            file_at(tls.key_file, follow=True), path=tls.key_file, setting="nats.tls.key_file", reader=patient.owner
        )
        several += [wrong] if wrong is not None else []
        found = term_of_chain(tls.cert_file, "nats.tls.cert_file")
        several.append(
            times.term(f"{tls.cert_file}", found, now=now, fix="renew it: it is read at the next connection")
        )
    if tls.ca_file:
        found = term_of_authorities(tls.ca_file, "nats.tls.ca_file")
        several.append(times.term(f"{tls.ca_file}", found, now=now, fix="add the authority's next certificate"))
    tls_context(tls)  # says where certificate and key are no pair
    return together(several) if several else fine("the system's authorities are trusted; no certificate of its own")
