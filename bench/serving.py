"""What the agent costs as a server: the JWK Set over HTTP, a mint at the socket beside one in the process, memory.

The agent is one thread, so it has one core; the clients have another. RS256 with 3,072 bits, as by default. The added
latency is that of a mint at the socket less the median of a mint by the library on the same disk, taken in turns.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.propagation import spent
from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.token_file import write_token
from keydist.core.token import format_token, generate_token
from keydist.signing import Signer

SECONDS = float(os.environ.get("BENCH_SECONDS", "5"))
MINTS = int(os.environ.get("BENCH_MINTS", "2000"))
CONNECTIONS = 16
MEMORY_TARGET = 60.0
GET = b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def main() -> None:
    """Measure and print; exit 1 where the idle agent is larger than it may be."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        server = EmbeddedServer(root / "nats")
        server.start()
        try:
            is_small = measure(root, server.url)
        finally:
            server.stop()
    sys.exit(0 if is_small else 1)


def configured(root: Path, url: str) -> Path:
    """Write a node's configuration and token."""
    write_token(str(root / "token"), format_token(generate_token(os.urandom)))
    settings = {
        "cluster": "bench",
        "node": "node-a",
        "role": "leader",
        "issuer": "https://bench.example",
        "token_file": str(root / "token"),
        "state_dir": str(root / "state"),
        "runtime_dir": str(root / "run"),
        "http": {"listen": "127.0.0.1:0"},
        "nats": {"servers": [url]},
    }
    path = root / "keydist.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def measure(root: Path, url: str) -> bool:
    """Run one agent, measure it, and tell whether it is small enough."""
    path, log = configured(root, url), root / "log"
    with log.open("wb") as stream:
        agent = subprocess.Popen([sys.executable, "-m", "keydist", "agent", "--config", str(path)], stderr=stream)
    try:
        port = served(log)
        time.sleep(2)
        idle = spent(agent.pid).mib
        for connections in (1, CONNECTIONS):
            rate, p99 = requests(port, connections)
            print(
                f"JWK Set over HTTP: {rate:,.0f} requests/s on one core, {connections} connection(s), p99 {p99:.2f} ms"
            )
        mints(path, str(root / "run" / "agent.sock"))
        busy = spent(agent.pid).mib
        print(
            f"agent that serves: {idle:.1f} MiB resident idle, {busy:.1f} MiB after that; at most {MEMORY_TARGET:.0f}"
        )
        return max(idle, busy) <= MEMORY_TARGET
    finally:
        agent.terminate()
        agent.wait()


def served(log: Path) -> int:
    """Wait until there is a key and everything is served, and return the HTTP port."""
    for _ in range(600):
        events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        ports = [event["at"].rpartition(":")[2] for event in events if event.get("what") == "http"]
        if ports and any(event["event"] == "keyset-taken" for event in events):
            return int(ports[0])
        time.sleep(0.05)
    raise SystemExit(log.read_text(encoding="utf-8"))


def requests(port: int, connections: int) -> tuple[float, float]:
    """Ask over kept connections, each anew once it is answered; return requests a second and p99 in milliseconds."""
    waiting = selectors.DefaultSelector()
    asked: dict[socket.socket, float] = {}
    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(GET)
        asked[connection] = time.perf_counter()
        waiting.register(connection, selectors.EVENT_READ, connection)
    whole = one_answer(asked)
    took: list[float] = []
    read = dict.fromkeys(asked, 0)
    for connection in asked:
        connection.sendall(GET)
        asked[connection] = time.perf_counter()
    end = time.perf_counter() + SECONDS
    while (now := time.perf_counter()) < end:
        for key, _ in waiting.select(1):
            connection = key.data
            read[connection] += len(connection.recv(65_536))
            if read[connection] >= whole:
                read[connection] = 0
                took.append(time.perf_counter() - asked[connection])
                asked[connection] = time.perf_counter()
                connection.sendall(GET)
    elapsed = now - end + SECONDS
    for connection in asked:
        connection.close()
    return len(took) / elapsed, 1000 * statistics.quantiles(took, n=100)[98]


def one_answer(connections: dict[socket.socket, float]) -> int:
    """Read the first answer of each connection, and return how long one is: all are alike."""
    sizes = set()
    for connection in connections:
        connection.settimeout(5)
        got = b""
        while b"\r\n\r\n" not in got or len(got) < got.index(b"\r\n\r\n") + 4 + length(got):
            got += connection.recv(65_536)
        sizes.add(len(got))
    [size] = sizes
    return size


def length(head: bytes) -> int:
    """Return the Content-Length of an answer."""
    return int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])


def mints(config: Path, path: str) -> None:
    """Mint in this process and at the socket, in turns, and print what the socket adds."""
    with Signer.open(str(config)) as here, Signer.connect(path) as there:
        times: dict[str, list[float]] = {"here": [], "there": []}
        for _ in range(MINTS):
            for name, signer in (("here", here), ("there", there)):
                times[name].append(timed(lambda signer=signer: signer.mint({}, subject="s", audience="a")))  # type: ignore[misc]
    own = statistics.median(times["here"])
    parts = statistics.quantiles([at - own for at in times["there"]], n=100)
    added = f"p50 {1000 * parts[49]:.2f} ms, p99 {1000 * parts[98]:.2f} ms"
    print(f"mint: {1000 * own:.2f} ms in the process; the socket adds {added}")


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
