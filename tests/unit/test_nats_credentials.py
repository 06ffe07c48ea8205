"""Who a node is to NATS, and whom it trusts: nkeys, creds files, TLS, and files that cannot be used."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from keydist.adapters.config import TlsConfig
from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.credentials import user_of
from keydist.adapters.nats.wire import Reply
from keydist.errors import ConfigError, CredentialsRefusedError, KeydistError, UnreachableError
from tests.material import noise

StartServer = Callable[..., EmbeddedServer]


class Nkey:
    """An NKEY made from a name: its seed, its public key, and JWTs that it issues."""

    def __init__(self, name: str, prefix: int = nkeys.PREFIX_BYTE_USER) -> None:
        self.seed = nkeys.encode_seed(noise(name, 32), prefix).decode()
        pair = nkeys.from_seed(bytearray(self.seed.encode()))
        self._sign = pair.sign
        self.public = pair.public_key.decode()

    def issue(self, subject: Nkey, kind: str, *, expires: int | None = None, **claims: object) -> str:
        """Return a JWT of NATS about `subject`."""
        body: dict[str, object] = {} if expires is None else {"exp": expires}
        body |= {
            "iat": 1_700_000_000,
            "iss": self.public,
            "name": kind,
            "sub": subject.public,
            "nats": {"type": kind, "version": 2, **claims},
        }
        body["jti"] = base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).decode().rstrip("=")
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        signed = ".".join(_b64(json.dumps(part).encode()) for part in (head, body))
        return f"{signed}.{_b64(self._sign(signed.encode()))}"


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


async def ask(server: Server, *, seconds: float = 2.0) -> Reply:
    made = Connection(server, connect_seconds=seconds)
    try:
        return await made.request("nobody.there")
    finally:
        await made.close()


async def refusal(server: Server) -> KeydistError:
    loop = asyncio.get_running_loop()
    start = loop.time()
    with pytest.raises(KeydistError) as caught:
        await ask(server, seconds=1.0)
    assert loop.time() - start < 3
    return caught.value


# --- nkeys --------------------------------------------------------------------------------------


async def test_an_nkey_gets_in_and_another_does_not(start_server: StartServer, tmp_path: Path) -> None:
    mine, other = Nkey("mine"), Nkey("other")
    server = start_server(extra=f"authorization {{ users: [ {{ nkey: {mine.public} }} ] }}")
    file = write(tmp_path / "nkey", f"{mine.seed}\n")
    assert (await ask(Server(urls=(server.url,), node="n1", nkey_file=file))).status == 503
    write(tmp_path / "nkey", other.seed)
    error = await refusal(Server(urls=(server.url,), node="n1", nkey_file=file))
    assert isinstance(error, CredentialsRefusedError)
    assert other.seed not in str(error.as_json())


# --- creds files --------------------------------------------------------------------------------

OPERATOR, ACCOUNT, USER = (
    Nkey("operator", nkeys.PREFIX_BYTE_OPERATOR),
    Nkey("account", nkeys.PREFIX_BYTE_ACCOUNT),
    Nkey("user"),
)
_ANY = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)


def trusting_operator() -> str:
    """Return a server's configuration that trusts users by JWT."""
    account = OPERATOR.issue(ACCOUNT, "account", limits={**_ANY, "wildcards": True})
    return (
        f"operator: {OPERATOR.issue(OPERATOR, 'operator')}\n"
        f"resolver: MEMORY\nresolver_preload: {{ {ACCOUNT.public}: {account} }}"
    )


def creds(user: Nkey, issuer: Nkey = ACCOUNT, seed: str | None = None, *, expires: int | None = None) -> str:
    """Return a creds file as nsc writes it."""
    jwt = issuer.issue(user, "user", expires=expires, subs=-1, data=-1, payload=-1)
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed if seed is None else seed}\n------END USER NKEY SEED------\n"
    )


async def test_a_creds_file_gets_in_and_others_do_not(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(extra=trusting_operator(), jetstream=False)
    file = write(tmp_path / "creds", creds(USER))
    assert (await ask(Server(urls=(server.url,), node="n1", creds_file=file))).status == 503
    stranger = Nkey("strangers' account", nkeys.PREFIX_BYTE_ACCOUNT)
    for text in (creds(USER, issuer=stranger), creds(USER, seed=Nkey("other").seed)):
        write(tmp_path / "creds", text)
        error = await refusal(Server(urls=(server.url,), node="n1", creds_file=file))
        assert isinstance(error, CredentialsRefusedError)
    assert isinstance(await refusal(Server(urls=(server.url,), node="n1")), CredentialsRefusedError)


# --- files that cannot be used ------------------------------------------------------------------

SEED = Nkey("a seed that must not be shown").seed
UNUSABLE = {
    "empty": "",
    "garbage": "garbage",
    "a seed cut short": SEED[:20],
    "a seed with a wrong character": SEED[:-1] + "!",
    "not ASCII": "naïve",
    "a public key": Nkey("mine").public,
}


BROKEN_CREDS = [
    creds(USER, seed=""),
    creds(USER, seed="garbage"),
    creds(USER)[creds(USER).index("-----BEGIN USER NKEY SEED") :],  # no JWT
    creds(USER)[: creds(USER).index("-----BEGIN USER NKEY SEED")],
]


@pytest.mark.parametrize("text", UNUSABLE.values(), ids=UNUSABLE)
async def test_an_nkey_file_that_cannot_be_used(text: str, nats_server: EmbeddedServer, tmp_path: Path) -> None:
    file = write(tmp_path / "nkey", text)
    error = await refusal(Server(urls=(nats_server.url,), node="n1", nkey_file=file))
    assert isinstance(error, ConfigError)
    assert file in error.message
    assert not text or text not in str(error.as_json()).replace(file, "")


@pytest.mark.parametrize("text", [*UNUSABLE.values(), SEED, *BROKEN_CREDS])
async def test_a_creds_file_that_cannot_be_used_does_not_hang(
    text: str, nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    file = write(tmp_path / "creds", text)
    error = await refusal(Server(urls=(nats_server.url,), node="n1", creds_file=file))
    assert isinstance(error, ConfigError)
    assert SEED not in str(error.as_json())


@pytest.mark.parametrize("name", ["nkey_file", "creds_file"])
async def test_credentials_that_are_not_there(name: str, nats_server: EmbeddedServer, tmp_path: Path) -> None:
    path = str(tmp_path / "absent")
    server = (
        Server(urls=(nats_server.url,), node="n1", nkey_file=path)
        if name == "nkey_file"
        else Server(urls=(nats_server.url,), node="n1", creds_file=path)
    )
    error = await refusal(server)
    assert isinstance(error, ConfigError)
    assert error.message == f"nats.{name} cannot be read: {path}"
    assert error.found == "no such file or directory"


# --- TLS ----------------------------------------------------------------------------------------


def certificate(directory: Path, name: str, *, days: int = 36_500) -> TlsConfig:
    """Write a self-signed certificate for 127.0.0.1 with its key, usable by a server and by a client.

    It is valid for so many days from the beginning of 2020.
    """
    import ipaddress  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    file, key_file = directory / f"{name}.pem", directory / f"{name}.key"
    file.write_bytes(signed.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return TlsConfig(ca_file=str(file), cert_file=str(file), key_file=str(key_file))


def tls_server(of_server: TlsConfig, of_clients: TlsConfig, *, handshake_first: bool = True) -> str:
    return (
        f"tls {{ cert_file: {json.dumps(of_server.cert_file)}, key_file: {json.dumps(of_server.key_file)}, "
        f"ca_file: {json.dumps(of_clients.ca_file)}, verify: true, handshake_first: {str(handshake_first).lower()} }}"
    )


async def test_tls_both_ways(start_server: StartServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server_files, client_files, strange_files = (
        certificate(tmp_path, name) for name in ("server", "client", "strange")
    )
    server = start_server(extra=tls_server(server_files, client_files))
    url = server.url.replace("nats://", "tls://")
    mine = client_files._replace(ca_file=server_files.ca_file)
    assert (await ask(Server(urls=(url,), node="n1", tls=mine))).status == 503
    assert caplog.text == ""  # asyncio complains of nats-py's way of closing TLS, and an operator cannot help it
    for wrong in (mine._replace(ca_file=strange_files.ca_file), TlsConfig()):
        error = await refusal(Server(urls=(url,), node="n1", tls=wrong))
        assert isinstance(error, ConfigError)
        assert "certificate" in error.found.lower()
        assert "nats.tls.ca_file" in error.fix
    error = await refusal(Server(urls=(url.replace("127.0.0.1", "localhost"),), node="n1", tls=mine))
    assert isinstance(error, ConfigError)  # another name than the certificate's
    assert "localhost" in error.found
    for wrong in (mine._replace(cert_file=None, key_file=None), strange_files._replace(ca_file=server_files.ca_file)):
        error = await refusal(Server(urls=(url,), node="n1", tls=wrong))
        assert isinstance(error, UnreachableError)
        assert "certificate" in error.fix, error


def abort_as_of_python_3_11_2(transport: Any) -> None:  # noqa: ANN401 - a private class of asyncio
    transport._closed = True
    transport._ssl_protocol._abort()


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="what it imitates is asyncio of Python 3.11")
async def test_refused_credentials_are_told_as_such_over_tls_with_every_python(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncio.sslproto._SSLProtocolTransport.abort", abort_as_of_python_3_11_2)
    server_files, client_files = (certificate(tmp_path, name) for name in ("server", "client"))
    users = f"authorization {{ users: [ {{ nkey: {Nkey('somebody').public} }} ] }}"
    server = start_server(extra=f"{tls_server(server_files, client_files)}\n{users}")
    seed = tmp_path / "seed"
    seed.touch(mode=0o600)
    seed.write_text(Nkey("a stranger").seed, encoding="ascii")
    mine = client_files._replace(ca_file=server_files.ca_file)
    url = server.url.replace("nats://", "tls://")
    error = await refusal(Server(urls=(url,), node="n1", nkey_file=str(seed), tls=mine))
    assert isinstance(error, CredentialsRefusedError), error


async def test_a_server_that_speaks_before_tls_is_told_how(start_server: StartServer, tmp_path: Path) -> None:
    server_files, client_files = (certificate(tmp_path, name) for name in ("server", "client"))
    server = start_server(extra=tls_server(server_files, client_files, handshake_first=False))
    mine = client_files._replace(ca_file=server_files.ca_file)
    error = await refusal(Server(urls=(server.url,), node="n1", tls=mine))
    assert isinstance(error, UnreachableError)
    assert "handshake_first: true" in error.fix, error


@pytest.mark.parametrize("text", ["", "not PEM"])
async def test_tls_files_that_cannot_be_used(text: str, nats_server: EmbeddedServer, tmp_path: Path) -> None:
    file = write(tmp_path / "ca.pem", text)
    error = await refusal(Server(urls=(nats_server.url,), node="n1", tls=TlsConfig(ca_file=file)))
    assert isinstance(error, ConfigError)
    absent = await refusal(Server(urls=(nats_server.url,), node="n1", tls=TlsConfig(ca_file=f"{file}.absent")))
    assert isinstance(absent, ConfigError)
    assert f"{file}.absent" in str(absent)


# --- whose they are -----------------------------------------------------------------------------


def creds_text(jwt: str, seed: str) -> str:
    """Return a creds file, as nsc writes it."""
    return f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END\n-----BEGIN USER NKEY SEED-----\n{seed}\n------END\n"


def test_whose_the_credentials_are_is_told_by_the_public_name(tmp_path: Path) -> None:
    user, account = Nkey("user"), Nkey("account", nkeys.PREFIX_BYTE_ACCOUNT)
    seed = write(tmp_path / "seed", user.seed)
    assert user_of(creds_file=None, nkey_file=seed) == user.public
    issued = write(tmp_path / "creds", creds_text(account.issue(user, "user"), user.seed))
    assert user_of(creds_file=issued, nkey_file=None) == user.public
    assert user_of(creds_file=None, nkey_file=None) is None


@pytest.mark.parametrize(
    "text", ["", "junk", creds_text("a.b.c", "SU"), creds_text("a." + _b64(b'{"sub":1}') + ".c", "SU"), "é"]
)
def test_credentials_that_do_not_say_whose_they_are_are_nobodys(tmp_path: Path, text: str) -> None:
    file = write(tmp_path / "file", text)
    assert user_of(creds_file=file, nkey_file=None) is None
    assert user_of(creds_file=None, nkey_file=file) is None
    assert user_of(creds_file=str(tmp_path / "none"), nkey_file=None) is None
