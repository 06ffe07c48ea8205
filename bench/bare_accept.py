"""The yardstick for a first start: a bare script that does the same work with yaml, nats-py and cryptography.

It reads the same configuration and token, connects, reads the entry by direct get, derives, opens and loads the
keys, makes the same files with the same writes, syncs and renames, writes the same signed line of an audit trail, and
confirms by a read from the stream leader.
It checks nothing that a script would not.
"""

import asyncio
import base64
import fcntl
import hashlib
import hmac
import json
import os
import pwd
import sys
import time
from typing import Any

import nats
import yaml
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def lp(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def write(directory: int, name: str, data: bytes, mode: int = 0o600) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode, dir_fd=directory)
    os.write(fd, data)
    os.fsync(fd)
    os.close(fd)


def replace(directory: int, name: str, data: bytes, mode: int = 0o600) -> None:
    write(directory, f".{name}.new", data, mode)
    os.rename(f".{name}.new", name, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)


def make(directory: int, name: str) -> int:
    os.mkdir(name, 0o700, dir_fd=directory)
    os.fsync(directory)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)


def open_envelope(envelope: bytes, secret: bytes) -> tuple[dict[str, Any], bytes]:
    aad, _, iv, ciphertext, tag = envelope.split(b".")
    header = json.loads(unb64(aad.decode()))
    cid = lp(header["cid"].encode())
    salt = hashlib.sha256(b"keydist/v1/extract\0" + cid).digest()
    prk = hmac.digest(salt, secret, "sha256")
    context = cid + lp(header["loc"].encode()) + lp(header["kid"].encode()) + lp(unb64(header["rnd"]))
    content, commitment = (
        HKDFExpand(SHA256(), 32, label + context).derive(prk)
        for label in (b"keydist/v1/aead\0", b"keydist/v1/commit\0")
    )
    if not hmac.compare_digest(commitment, unb64(header["kc"])):
        sys.exit("commitment")
    sealed = unb64(ciphertext.decode()) + unb64(tag.decode())
    return header, AESGCM(content).decrypt(unb64(iv.decode()), sealed, aad)


def public_jwk(key: dict[str, str], pkcs8: bytes) -> dict[str, str]:
    private: Any = load_der_private_key(pkcs8, None, unsafe_skip_rsa_key_validation=True)
    numbers = private.public_key().public_numbers()
    members = {"e": "AQAB", "kty": "RSA", "n": b64(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big"))}
    kid = b64(hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest())
    if kid != key["kid"]:
        sys.exit("kid")
    private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return {"kty": "RSA", "use": "sig", "alg": key["alg"], "kid": kid, "e": members["e"], "n": members["n"]}


def install(state_dir: str, envelope: bytes, header: dict[str, Any], plaintext: bytes) -> tuple[int, int, str]:
    keyset = json.loads(plaintext)
    now = int(time.time())
    public = [public_jwk(key, unb64(key["pkcs8"])) for key in keyset["keys"] if key["use"] == "sig"]
    active = next(key for key in keyset["keys"] if key["use"] == "sig" and key["state"] == "active")
    pem = b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(unb64(active["pkcs8"])) + b"-----END PRIVATE KEY-----\n"
    files = {
        "keyset.jwe": envelope,
        "jwks.json": json.dumps({"keys": public}).encode(),
        "keyset.json": plaintext,
        "signing-key.pem": pem,
    }
    files["sums"] = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items()).encode()
    os.mkdir(state_dir, 0o700)
    root = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    lock = os.open("lock", os.O_RDWR | os.O_CREAT, 0o600, dir_fd=root)
    fcntl.flock(lock, fcntl.LOCK_EX)
    archive = make(root, "archive")
    fresh = make(archive, ".000001.new")
    for name, data in files.items():
        write(fresh, name, data)
    os.fsync(fresh)
    kept = make(root, "public")
    for jwk in public:
        replace(kept, f"{jwk['kid']}.jwk", json.dumps(jwk).encode(), 0o644)
    os.rename(".000001.new", "000001", src_dir_fd=archive, dst_dir_fd=archive)
    os.fsync(archive)
    os.symlink("archive/000001", ".live.new", dir_fd=root)
    os.rename(".live.new", "live", src_dir_fd=root, dst_dir_fd=root)
    os.fsync(root)
    digest = b64(hashlib.sha256(envelope).digest()[:16])
    floor = {"lineage": header["lin"], "epoch": header["ep"], "digest": digest, "token": header["kid"]}
    replace(root, "floor.json", json.dumps(floor).encode())
    seen = {key["kid"]: {key["state"]: now} for key in keyset["keys"]}
    replace(root, "seen.json", json.dumps(seen).encode())
    os.close(lock)
    tell(root, header, active, digest)
    return root, header["ep"], digest


def tell(root: int, header: dict[str, Any], active: dict[str, str], digest: str) -> None:
    trail = make(root, "audit")
    lock = os.open("lock", os.O_RDWR | os.O_CREAT, 0o600, dir_fd=trail)
    fcntl.flock(lock, fcntl.LOCK_EX)
    chain = os.urandom(8).hex()
    record = {
        "v": 1, "cluster": header["cid"], "node": "node-a", "chain": chain, "seq": 1, "prev": b64(bytes(32)),
        "at": int(time.time()), "what": "epoch", "how": "retrieved", "lineage": header["lin"], "epoch": header["ep"],
        "digest": digest, "facts": {"active": active["kid"], "token": header["kid"]}, "minted": [],
        "who": {"uid": os.getuid(), "program": "bootstrap", "user": pwd.getpwuid(os.getuid()).pw_name},
        "kid": active["kid"], "alg": active["alg"],
    }  # fmt: skip
    private: Any = load_der_private_key(unb64(active["pkcs8"]), None, unsafe_skip_rsa_key_validation=True)
    signature = private.sign(b"keydist/v1/audit\0" + json.dumps(record).encode(), PKCS1v15(), SHA256())
    line = json.dumps(record | {"sig": b64(signature)}).encode() + b"\n"
    replace(trail, f"00000001-{chain}-0000000000000001.jsonl", line)
    os.close(lock)


async def main(config_path: str) -> None:
    with open(config_path, encoding="utf-8") as stream:
        config = yaml.load(stream, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    with open(config["token_file"], encoding="ascii") as stream:
        secret = base64.b32decode(stream.read().strip().split("_")[2].upper() + "====")
    client = await nats.connect(config["nats"]["servers"])
    subject = "$JS.API.DIRECT.GET.KV_keydist.$KV.keydist.signing-key"
    message = await client.request(subject, b"", timeout=5)
    header, plaintext = open_envelope(message.data, secret)
    root, epoch, digest = install(config["state_dir"], message.data, header, plaintext)
    sent = int(time.time())
    query = json.dumps({"last_by_subj": "$KV.keydist.signing-key"}).encode()
    answer = await client.request("$JS.API.STREAM.MSG.GET.KV_keydist", query, timeout=5)
    if base64.b64decode(json.loads(answer.data)["message"]["data"]) == message.data:
        replace(root, "confirmed.json", json.dumps({"epoch": epoch, "digest": digest, "at": sent}).encode())
    await client.close()
    print(json.dumps({"epoch": epoch}))


asyncio.run(main(sys.argv[1]))
