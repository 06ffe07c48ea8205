"""Who this node is to NATS, and whom it trusts: credentials and TLS files, read and checked before nats-py sees them.

nats-py reads the file itself at every connection: a creds file without a JWT makes it loop for ever, and a seed
that cannot be decoded ends its reconnection for good. So it is given text that was checked; a changed file counts
at the next connection that is made anew.
"""

from __future__ import annotations

import base64
import itertools
import json
import logging
import os
import ssl
from typing import TYPE_CHECKING, Any

from keydist.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from keydist.adapters.config import TlsConfig

_MOST = 65_536


def credential_options(*, creds_file: str | None, nkey_file: str | None) -> dict[str, Any]:
    """Return what `nats.connect` is told about who connects. Raises `ConfigError` where a file cannot be used."""
    if creds_file is not None:
        from nats.aio.client import RawCredentials  # noqa: PLC0415 - few need it

        text = read_file(creds_file, "nats.creds_file")
        _line_after(text, "BEGIN NATS USER JWT", creds_file)
        _check_seed(_line_after(text, "BEGIN USER NKEY SEED", creds_file), creds_file)
        return {"user_credentials": RawCredentials(text)}
    if nkey_file is not None:
        seed = read_file(nkey_file, "nats.nkey_file").strip()
        _check_seed(seed, nkey_file)
        return {"nkeys_seed_str": seed}
    return {}


def user_of(*, creds_file: str | None, nkey_file: str | None) -> str | None:
    """Return the public name of the user that the credentials are for; None without any, or where they do not say."""
    try:
        if creds_file is not None:
            subject = json.loads(base64.urlsafe_b64decode(jwt_in(creds_file).split(".")[1] + "==")).get("sub")
            return subject if isinstance(subject, str) else None
        if nkey_file is not None:
            return public_nkey(read_file(nkey_file, "nats.nkey_file"))
    except Exception:  # noqa: BLE001 - whatever is wrong with them is told by who connects with them
        return None
    return None


def new_seed(random: Callable[[int], bytes]) -> str:
    """Return a new user's seed, which is a secret; `random` returns that many random bytes."""
    import nkeys  # type: ignore[import-untyped] # noqa: PLC0415 - few need it

    seed: str = nkeys.encode_seed(random(32), nkeys.PREFIX_BYTE_USER).decode("ascii")
    return seed


def public_nkey(seed: str) -> str:
    """Return the public nkey of a seed. Raises whatever is wrong with one that is none; it may show parts of it."""
    import nkeys  # noqa: PLC0415 - few need it

    pair = nkeys.from_seed(bytearray(seed.strip().encode("ascii")))
    name: str = pair.public_key.decode("ascii")
    pair.wipe()
    return name


def jwt_in(path: str) -> str:
    """Return the JWT in a creds file, which holds no secret. Raises `ConfigError`."""
    return _line_after(read_file(path, "nats.creds_file"), "BEGIN NATS USER JWT", path)


def read_file(path: str, name: str) -> str:
    """Return the text of a small file that a setting names. Raises `ConfigError`."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - as everywhere on the way to a start
            return file.read(_MOST).decode("ascii")
    except UnicodeDecodeError:
        raise _unusable(path, "not text") from None
    except OSError as exc:
        raise ConfigError(
            f"{name} cannot be read: {path}",
            expected="a file that this user may read",
            found=os.strerror(exc.errno or 0).lower(),
            fix=f"put the credentials there, or correct {name}",
        ) from None


def _line_after(text: str, mark: str, path: str) -> str:
    lines = text.splitlines()
    following = next((after for line, after in itertools.pairwise(lines) if mark in line), "").strip()
    if not following:
        raise _unusable(path, f"nothing after {mark}")
    return following


def _check_seed(seed: str, path: str) -> None:
    import nkeys  # noqa: PLC0415 - few need it

    try:
        nkeys.from_seed(bytearray(seed.encode("ascii"))).wipe()
    except Exception:  # noqa: BLE001 - from binascii.Error to IndexError; and nothing of the seed may be shown
        raise _unusable(path, "a seed that cannot be decoded") from None


def _unusable(path: str, found: str) -> ConfigError:
    return ConfigError(
        f"the NATS credentials in {path} cannot be used",
        expected="an NKEY seed (nats.nkey_file), or a JWT with its seed (nats.creds_file)",
        found=found,
        fix="copy the file again as nsc or nk wrote it",
    )


def _is_no_eof_noise(record: logging.LogRecord) -> bool:
    """Tell whether a record is anything but what asyncio says whenever nats-py closes a TLS connection."""
    return "eof_received()" not in record.getMessage()


def tls_context(files: TlsConfig) -> ssl.SSLContext:
    """Return a client context that verifies the server. Raises `ConfigError` where a file cannot be used."""
    logging.getLogger("asyncio").addFilter(_is_no_eof_noise)
    names = f"ca_file ({files.ca_file})"
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=files.ca_file)
        if files.cert_file:
            names = f"cert_file ({files.cert_file}) with key_file ({files.key_file})"
            context.load_cert_chain(files.cert_file, files.key_file)
    except (OSError, ssl.SSLError) as exc:
        found = "not PEM, or not a pair" if isinstance(exc, ssl.SSLError) else os.strerror(exc.errno or 0).lower()
        raise ConfigError(
            f"nats.tls cannot be used: {names}",
            expected="PEM files that this user may read",
            found=found,
            fix="put the files there, or correct nats.tls",
        ) from exc
    return context


def tls_fix(failure: Exception) -> str:
    """Return what to do about a TLS handshake that failed, or nothing where it was not TLS that failed."""
    if not isinstance(failure, ssl.SSLError):
        return ""
    reason = (failure.reason or "").upper().replace(" ", "_")
    if isinstance(failure, ssl.SSLCertVerificationError):
        return "check nats.tls.ca_file, nats.servers and the server's certificate"
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return "the server wants a client certificate: set nats.tls.cert_file and nats.tls.key_file"
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return "the server refuses this node's certificate: compare nats.tls.cert_file with the server's ca_file"
    if "VERSION" in reason or "RECORD" in reason:
        return "set handshake_first: true in the server's tls block, and check that it has one"
    return "compare nats.tls with the server's tls block"
