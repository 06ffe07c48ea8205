"""The yardstick for a start from disk: a bare script with yaml and cryptography that does the same work.

It reads the same configuration and token, reads and checks the same files, loads the same keys, and is refused by
the same socket. It loads no NATS client and no event loop.
"""

import base64
import hashlib
import json
import os
import socket
import sys
from typing import Any

import yaml
from cryptography.hazmat.primitives.serialization import load_der_private_key


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def read(directory: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
    if os.fstat(fd).st_uid != os.geteuid():
        sys.exit("owner")
    data = os.read(fd, 1 << 20)
    os.close(fd)
    return data


def main(config_path: str) -> None:
    with open(config_path, encoding="utf-8") as stream:
        config = yaml.load(stream, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    with open(config["token_file"], encoding="ascii") as stream:
        base64.b32decode(stream.read().strip().split("_")[2].upper() + "====")
    root = os.open(config["state_dir"], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    floor = json.loads(read(root, "floor.json"))
    live = os.open(os.readlink("live", dir_fd=root), os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)
    files = {name: read(live, name) for name in ("jwks.json", "keyset.json", "keyset.jwe", "signing-key.pem")}
    for line in read(live, "sums").decode().splitlines():
        digest, name = line.split("  ")
        if hashlib.sha256(files[name]).hexdigest() != digest:
            sys.exit("damage")
    header = json.loads(unb64(files["keyset.jwe"].split(b".", 1)[0].decode()))
    keyset = json.loads(files["keyset.json"])
    for key in keyset["keys"]:
        if "pkcs8" in key:
            private: Any = load_der_private_key(unb64(key["pkcs8"]), None, unsafe_skip_rsa_key_validation=True)
            numbers = private.public_key().public_numbers()
            modulus = base64.urlsafe_b64encode(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")).rstrip(
                b"="
            )
            text = json.dumps({"e": "AQAB", "kty": "RSA", "n": modulus.decode()}, separators=(",", ":"))
            if base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode() != key["kid"]:
                sys.exit("kid")
    if header["ep"] < floor["epoch"]:
        sys.exit("rollback")
    json.loads(read(root, "seen.json"))
    json.loads(read(root, "confirmed.json"))
    host, port = config["nats"]["servers"][0].removeprefix("nats://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        print(json.dumps({"epoch": header["ep"], "outcome": "from-disk"}))


main(sys.argv[1])
