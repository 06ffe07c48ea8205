"""The configuration's cases: documents, what comes of them, and the words of each refusal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from keydist.adapters.config import Config, TlsConfig, load_config
from keydist.adapters.config_credentials import CredentialRule
from keydist.adapters.config_hooks import Hook
from keydist.adapters.config_schema import POLICY_NAMES
from keydist.adapters.config_serve import MintRule, Rule

TOKEN = "kdt1_0123456789_" + "a" * 52 + "_89abcdef"
SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
FULL = """
cluster: prod-eu1
node: node-a
role: leader
issuer: https://prod-eu1.example
token_file: /etc/keydist/token
state_dir: /var/lib/keydist/a
runtime_dir: run
group: keydist-readers
at_rest: sealed
nats:
  servers: [nats://127.0.0.1:4222, "tls://nats-2.example"]
  bucket: keys
  entry: prod/signing.key
  creds_file: ../nats.creds
  tls: {ca_file: ca.pem, cert_file: ./node.pem, key_file: node.key}
key: {alg: PS256, bits: 4096}
bootstrap: {timeout: 1m30s}
rotation: {every: 2w, max_tokens_per_key: 1000}
policy: {propagation: 30m, skew: 10}
lineage: 00112233445566778899aabbccddeeff
heartbeat: 15s
resync: 20s
rehearse_every: 1w
http: {listen: "0.0.0.0:8443", tls: {cert_file: web.pem, key_file: web.key}}
metrics: {listen: "127.0.0.1:9100"}
socket:
  path: run/keydist.sock
  group: apps
  mode: "0666"
  allow:
  - {users: [web], groups: [app], mint: {subjects: ["orders-*"], audiences: [orders], lifetime: 1h, issuers: [i]}}
  - {groups: [ops], mint: {subjects: ["*"], audiences: [a, b]}}
audit: {stream: false, mints: true}
hooks:
- {run: [/usr/local/bin/reload, --now, ""], "on": jwks, timeout: 1m, retries: 0}
- {signal: HUP, unit: nginx.service}
credentials:
- {unit: web.service, names: [signing-key, jwks]}
- {unit: web@*.service, names: [jwks]}
"""


def load(folder: Path, text: str | bytes, environ: Mapping[str, str] | None = None, **flags: str) -> Config:
    """Load a document from `keydist.yaml` in a folder."""
    file = folder / "keydist.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(str(file), environ=environ or {}, overrides=flags)


def value_of(config: Config, name: str) -> object:
    """Follow a dotted name of the table into the settled configuration."""
    members = {place: f"policy.{member}" for member, place in POLICY_NAMES.items()}
    value: object = config
    for part in members.get(name, name.replace("bootstrap.timeout", "bootstrap_timeout")).split("."):
        value = getattr(value, part)
    return value


_SIGNALLED = Hook(on="key", signal="USR1", unit="a@b:c\\x2d.service", timeout=1)
GOOD = [
    ("node: Node_1-b", "node", "Node_1-b"),
    ("issuer: http://127.0.0.1:8080/keys", "issuer", "http://127.0.0.1:8080/keys"),
    ("issuer: 'http://[::1]:8080'", "issuer", "http://[::1]:8080"),
    ("issuer: http://localhost", "issuer", "http://localhost"),
    ("issuer:", "issuer", None),
    ("lineage:", "lineage", None),
    ("hooks:", "hooks", ()),
    ("hooks: []", "hooks", ()),
    ("hooks: [{run: [/bin/true]}]", "hooks", (Hook(on="key", run=("/bin/true",)),)),
    ('hooks: [{run: ["/a b", "é\\n"]}]', "hooks", (Hook(on="key", run=("/a b", "é\n")),)),
    ("hooks: [{signal: USR1, unit: 'a@b:c\\x2d.service', timeout: 1}]", "hooks", (_SIGNALLED,)),
    ("hooks: [{run: [/a]}, {run: [/a], 'on': jwks}]", "hooks", (Hook("key", ("/a",)), Hook("jwks", ("/a",)))),
    ("credentials:", "credentials", ()),
    ("credentials: []", "credentials", ()),
    (
        "credentials: [{unit: 'a@b@c:\\x2d.service', names: [jwks]}]",
        "credentials",
        (CredentialRule("a@b@c:\\x2d.service", ("jwks",)),),
    ),
    (
        f"credentials: [{{unit: {'x' * 64}.service, names: [signing-key]}}, {{unit: a@*.service, names: [jwks]}}]",
        "credentials",
        (CredentialRule(f"{'x' * 64}.service", ("signing-key",)), CredentialRule("a@*.service", ("jwks",))),
    ),
    ("http: {listen: }", "http.listen", None),
    ("http: {listen: ''}", "http.listen", None),
    ("http: {listen: '127.0.0.1:0'}\nmetrics: {listen: '127.0.0.1:0'}", "metrics.listen", "127.0.0.1:0"),
    ("http: {listen: '[::1]:00'}\nmetrics: {listen: '[::1]:00'}", "http.listen", "[::1]:00"),
    ("http:", "http.listen", "127.0.0.1:7447"),
    ("http: {listen: 'localhost:0'}", "http.listen", "localhost:0"),
    ("http: {listen: '[::1]:80'}", "http.listen", "[::1]:80"),
    ("http: {listen: '127.9.0.1:80'}", "http.tls", None),
    ("metrics:", "metrics.listen", None),
    ("metrics: {listen: }", "metrics.listen", None),
    ("runtime_dir: /r", "socket.path", "/r/agent.sock"),
    ("socket:", "socket.mode", 0o666),
    ("socket: {group: apps}", "socket.mode", 0o660),
    ("socket: {allow: }", "socket.allow", ()),
    ("socket: {allow: []}", "socket.allow", ()),
    (
        "socket: {allow: [{groups: [a], users: [], mint: {subjects: ['*'], audiences: [b], lifetime: 60}}]}",
        "socket.allow",
        (Rule((), ("a",), MintRule(("*",), ("b",), (), 60)),),
    ),
    ("resync: 1", "resync", 1),
    ("audit:", "audit.stream", True),
    ("audit: {stream: false}", "audit.stream", False),
    ("audit: {mints: true}", "audit.mints", True),
    ("rehearse_every: 0", "rehearse_every", 0),
    ("nats:", "nats.bucket", "keydist"),
    ("policy: {}", "policy.leeway", 60),
    ("nats: {tls: {}}", "nats.tls", TlsConfig()),
    ("nats: {servers: ['tls://a']}", "nats.tls", TlsConfig()),
    ("nats: {servers: ['tls://[2001:db8::1]:4222', nats://b.c:1]}", "nats.tls", TlsConfig()),
    ("nats: {nkey_file: /n}", "nats.nkey_file", "/n"),
    ("state_dir: //a/./b/", "state_dir", "//a/b"),
    ("key: {alg: ES256}", "key.bits", None),
    ("key: {alg: EdDSA}", "key.bits", None),
    ("bootstrap: {timeout: 0}", "bootstrap.timeout", 0),
    ("bootstrap: {timeout: 30}", "bootstrap.timeout", 30),
    ("bootstrap: {timeout: '45'}", "bootstrap.timeout", 45),
    ("rotation: {every: 0s}", "rotation.every", 0),
    ("policy: {max_lifetime: 1d2h3m4s}", "policy.max_lifetime", 93_784),
]


def _rule(mint: str) -> str:
    """Return a rule in which one member of `mint` is wrong."""
    usual = {"subjects": "[s]", "audiences": "[b]"}
    usual.pop(mint.partition(":")[0], None)
    rest = "".join(f", {name}: {value}" for name, value in usual.items())
    return f"socket: {{allow: [{{users: [a], mint: {{{mint}{rest}}}}}]}}"


# Without a cluster of its own: it is put in front. The schema refuses these too.
BAD = [
    ("nats: {tsl: {}}", r"unknown key nats.tsl; did you mean nats.tls\?$"),
    ("nats: {tls: {ca: /x}}", r"unknown key nats.tls.ca; did you mean nats.tls.ca_file\?"),
    ("clutser: x", r"unknown key clutser; did you mean cluster\?"),
    ("timeout: 3s", r"did you mean bootstrap.timeout\?"),
    ("nats: {clustre: x}", "unknown key nats.clustre; the keys known here are servers, bucket, entry,"),
    ("nats: {cluster: x}", r"did you mean cluster\?"),
    ("tls: {}", r"unknown key tls; did you mean nats.tls\?"),
    ("policy: {rotate_every: 3d}", r"did you mean rotation.every\?"),
    ("key: {zzz: 1}", r"unknown key key.zzz; the keys known here are alg, bits"),
    ("nats.bucket: keys", "unknown key nats.bucket; write it nested"),
    ('"\\e[1m": x', r"unknown key '\\x1b\[1m'"),
    ("nats: {tls: }", r"nats.tls is empty, and must not be taken for plain text .*; name ca_file"),
    ("nats: {tls: {ca_file: }}", "nats.tls.ca_file is empty"),
    ("nats: {tls: true}", "nats.tls is not a mapping .*found a boolean"),
    ("nats: [a]", "nats is not a mapping .*found a list"),
    ("role:", "role is empty .*give it a value, or remove it"),
    ("node: no", "node is not text .*found a boolean.*put it in quotes"),
    ("node: 12", "node is not text .*found an integer.*put it in quotes"),
    ("node: [a]", "node is not text .*found a list"),
    ("node: a.b", r"node is not well formed \(expected 1 to 64 letters.*found 'a.b'"),
    ("node: 'a\n\n'", "node is not well formed"),
    ("node: " + "n" * 65, "node is not well formed"),
    ("role: observer", r"role is not one of the known ones \(expected leader or follower, found 'observer'\)"),
    ("issuer: ftp://x", "issuer is not an address to publish under"),
    ("issuer: https://x/?q=1", "issuer is not an address .*found text that is not shown"),
    ("issuer: 'https://x/#f'", "issuer is not an address"),
    ("group: 1000", "group is not text"),
    ("group: '1000'", "group is not well formed"),
    ("at_rest: tpm", "at_rest is not one"),
    ("nats: {servers: nats://a}", "nats.servers is not a list of servers .*found text.*square brackets"),
    ("nats: {servers: []}", "found an empty list"),
    ("nats: {servers: [http://a]}", "server that is not well formed .*found 'http://a'"),
    ("nats: {servers: ['a:4222']}", "server that is not well formed"),
    (f"nats: {{servers: ['nats://{'a' * 64}.example']}}", "server that is not well formed"),  # no resolver takes it
    (f"nats: {{servers: ['nats://a.{'b' * 64}']}}", "server that is not well formed"),
    (f"issuer: https://{'a' * 64}", "issuer is not an address"),
    ("nats: {servers: [4222]}", "nats.servers is not text"),
    ("nats: {bucket: a.b}", "nats.bucket is not well formed"),
    ("nats: {entry: a..b}", "nats.entry is not well formed"),
    ("nats: {entry: .a}", "nats.entry is not well formed"),
    ("nats: {entry: a.}", "nats.entry is not well formed"),
    ("nats: {tls: {cert_file: /c}}", "cert_file and nats.tls.key_file go together"),
    ("key: {alg: HS256}", "key.alg is not one of the known ones"),
    ("key: {bits: 1024}", r"key.bits is out of range \(expected 2048, 3072, 4096, found 1024\)"),
    ("key: {bits: '2048'}", "key.bits is not an integer .*found text"),
    ("key: {bits: true}", "key.bits is not an integer .*found a boolean"),
    ("bootstrap: {timeout: 500ms}", "bootstrap.timeout is not a duration .*30s, 15m"),
    ("bootstrap: {timeout: -1}", r"bootstrap.timeout is out of range \(expected 0s to 1d, found -1s\)"),
    ("bootstrap: {timeout: }", "bootstrap.timeout is empty"),
    ("bootstrap: {timeout: [1]}", "bootstrap.timeout is not an integer"),
    ("heartbeat: 0", "heartbeat is out of range .*1s to 1h"),
    ("policy: {skew: -30}", "policy.skew is out of range .*at least 0s"),
    ("rotation: {max_tokens_per_key: -1}", "max_tokens_per_key is out of range .*at least 0"),
    ("lineage: ABCDEF00112233445566778899aabbcc", "lineage is not well formed"),
    ("credentials: {unit: x}", "credentials is not a list of mappings .*found a mapping"),
    ("credentials: [{unit: a.service}]", "credentials entry 1: unit and names go together"),
    ("credentials: [{names: [jwks]}]", "credentials entry 1: unit and names go together"),
    ("credentials: [{unti: a.service}]", r"credentials entry 1: unknown key unti; did you mean unit\?"),
    *(
        (f"credentials: [{{unit: '{unit}', names: [jwks]}}]", "credentials entry 1: unit is not the name of a service")
        for unit in (
            *("web", "web.socket", "*.service", "web*.service", "web@.service", "web@*", "web@a*.service"),
            *(
                "@a.service",
                "-.service",
                "a/b.service",
                "a b.service",
                "web.service.",
                f"{'x' * 65}.service",
                "é.service",
            ),
        )
    ),
    ("credentials: [{unit: a.service, names: jwks}]", "names is not a list of credentials .*found text"),
    ("credentials: [{unit: a.service, names: []}]", "names is not a list of credentials .*found an empty list"),
    ("credentials: [{unit: a.service, names: [token]}]", "entry 1: names has one that does not exist .*'token'"),
    ("credentials: [{unit: a.service, names: [1]}]", "entry 1: names is not text"),
    ("credentials: [{unit: a.service, names: [jwks, jwks]}]", "entry 1: names has one twice"),
    ("hooks: {run: x}", "hooks is not a list of mappings .*found a mapping"),
    ("hooks: [x]", "hooks is not a list of mappings .*with something else"),
    ("hooks: [{rnu: [/a]}]", r"hooks entry 1: unknown key rnu; did you mean run\?"),
    ("hooks: [{run: [/a]}, {zzz: 1, run: [/b]}]", "hooks entry 2: unknown key zzz; the keys known here are on, run,"),
    ("hooks: [{}]", "hooks entry 1: not one thing to do .*either run, or signal and unit"),
    ("hooks: [{run: [/a], signal: HUP, unit: a.service}]", "hooks entry 1: not one thing to do"),
    ("hooks: [{run: [/a], unit: a.service}]", "hooks entry 1: not one thing to do"),
    ("hooks: [{signal: HUP}]", "hooks entry 1: signal and unit go together"),
    ("hooks: [{unit: a.service}]", "hooks entry 1: signal and unit go together"),
    ("hooks: [{run: }]", "hooks entry 1: run is empty"),
    ("hooks: [{run: /a}]", "hooks entry 1: run is not a list of arguments .*found text.*no shell"),
    ("hooks: [{run: []}]", "hooks entry 1: run is not a list of arguments .*found a list of 0"),
    (f"hooks: [{{run: [{', '.join(['/a'] * 65)}]}}]", "run is not a list of arguments .*found a list of 65"),
    ("hooks: [{run: [a]}]", "hooks entry 1: run does not start with a program .*absolute path"),
    ("hooks: [{run: [/usr/bin/]}]", "hooks entry 1: run does not start with a program"),
    ("hooks: [{run: [/a, 1]}]", "hooks entry 1: run is not text .*found an integer"),
    ('hooks: [{run: [/a, "b\\0"]}]', r"hooks entry 1: run has an impossible argument .*found 'b\\x00'"),
    ("hooks: [{signal: KILL, unit: a.service}]", "entry 1: signal is not one .*HUP, USR1, USR2 or TERM.*'KILL'"),
    ("hooks: [{signal: HUP, unit: a.socket}]", "entry 1: unit is not the name of a service .*found 'a.socket'"),
    ("hooks: [{signal: HUP, unit: -a.service}]", "entry 1: unit is not the name of a service"),
    ("hooks: [{signal: HUP, unit: a/b.service}]", "entry 1: unit is not the name of a service"),
    (f"hooks: [{{signal: HUP, unit: {'a' * 249}.service}}]", "entry 1: unit is not the name of a service"),
    ("hooks: [{run: [/a], 'on': jwk}]", "entry 1: on is not one of the known ones .*key or jwks"),
    ("hooks: [{run: [/a], timeout: 0}]", "entry 1: timeout is out of range .*1s to 1h"),
    ("hooks: [{run: [/a], retries: 11}]", "entry 1: retries is out of range .*0 to 10"),
    ("hooks: [{run: [/a], retries: true}]", "entry 1: retries is not an integer .*found a boolean"),
    (f"hooks: [{', '.join(f'{{run: [/{n}]}}' for n in range(33))}]", "hooks has too many entries .*at most 32"),
    ("http: {listen: '7447'}", "http.listen is not an address to listen at .*found '7447'"),
    ("http: {listen: 7447}", "http.listen is not text .*found an integer"),
    ("http: {listen: 'web.example:80'}", "http.listen is not an address to listen at .*names are not looked up"),
    ("http: {listen: '127.0.0.256:80'}", "http.listen is not an address to listen at"),
    ("http: {listen: '127.0.0.1'}", "http.listen is not an address to listen at"),
    ("http: {tls: }", "http.tls is empty, and must not be taken for plain text .*name cert_file and key_file"),
    ("http: {tls: {}}", "http.tls.cert_file and http.tls.key_file go together"),
    ("http: {tls: {cert_file: /c}}", "http.tls.cert_file and http.tls.key_file go together"),
    ("socket: {mode: '0777'}", "socket.mode is not one of the known ones .*0600 or 0660 or 0666"),
    ("socket: {mode: 660}", "socket.mode is not text"),
    ("socket: {allow: {}}", "socket.allow is not a list of mappings .*found a mapping"),
    ("socket: {allow: [x]}", "socket.allow is not a list of mappings .*with something else"),
    ("socket: {allow: [{}]}", "socket.allow entry 1: names nobody"),
    ("socket: {allow: [{users: [a]}]}", "socket.allow entry 1: mint is missing"),
    ("socket: {allow: [{users: [a], mint: }]}", "entry 1: mint is empty"),
    ("socket: {allow: [{users: [a], mint: true}]}", "entry 1: mint is not a mapping .*found a boolean"),
    ("socket: {allow: [{users: [a], mint: {}}]}", "entry 1: mint subjects is missing"),
    ("socket: {allow: [{users: [a], mint: {subjects: [a]}}]}", "entry 1: mint audiences is missing"),
    ("socket: {allow: [{user: [a], mint: {}}]}", r"entry 1: unknown key user; did you mean users\?"),
    ("socket: {allow: [{users: [a], verify: true, mint: {}}]}", "unknown key verify; the keys known here are users,"),
    (_rule("subject: [a]"), r"entry 1: mint unknown key subject; did you mean subjects\?"),
    (_rule("subjects: a"), "entry 1: mint subjects is not a list in range .*found text.*square brackets"),
    (_rule("subjects: [1]"), "entry 1: mint subjects is not text"),
    (_rule("subjects: ['']"), "entry 1: mint subjects has an entry that is not well formed"),
    (_rule("subjects: ['a*b']"), r"mint subjects has an entry .*one \* at its end.*found 'a\*b'"),
    (_rule("subjects: ['a**']"), "mint subjects has an entry that is not well formed"),
    (_rule(f"subjects: [{'a' * 257}]"), "mint subjects has an entry that is not well formed"),
    (_rule(f"subjects: [{', '.join('a' * 65)}]"), "mint subjects is not a list in range .*found a list of 65"),
    (_rule("lifetime: 0"), "entry 1: mint lifetime is out of range"),
    ("socket: {allow: [{users: ['a b'], mint: {subjects: [a], audiences: [b]}}]}", "users has an entry .*accounts"),
    (f"socket: {{allow: [{', '.join(['{users: [a], mint: {subjects: [a], audiences: [b]}}'] * 65)}]}}", "at most 64"),
    ("resync: 0", "resync is out of range .*1s to 1h"),
    ("audit: {mints: 1}", "audit.mints is not a boolean .*found an integer"),
    ("audit: {mint: true}", r"did you mean audit.mints\?"),
    ("rehearse_every: -1", "rehearse_every is out of range"),
    ("state_dir: ''", "state_dir is not a path"),
]
# These the loader alone can tell.
BAD_FOR_THE_LOADER = [
    (
        "credentials: [{unit: a.service, names: [jwks]}, {unit: a.service, names: [signing-key]}]",
        "credentials entry 2 is about the unit of an earlier one",
    ),
    ("socket: {allow: [{users: [], mint: {subjects: [a], audiences: [b]}}]}", "entry 1: names nobody"),
    ("http: {listen: '127.0.0.1:65536'}", "http.listen is an impossible address"),
    ("http: {listen: '[:::1]:80'}", "http.listen is an impossible address"),
    ("http: {listen: '0.0.0.0:80'}", "http.listen leaves this machine without TLS .*found 0.0.0.0:80.*http.tls"),
    ("http: {listen: '[::]:80'}", "http.listen leaves this machine without TLS"),
    ("metrics: {listen: '10.0.0.1:80'}", "metrics.listen leaves this machine without TLS"),
    ("metrics: {listen: '127.0.0.1:7447'}", "metrics.listen and http.listen are one address"),
    ("http: {listen: '[::1]:70'}\nmetrics: {listen: '[::1]:70'}", "metrics.listen and http.listen are one address"),
    ("heartbeat: 2h", "heartbeat is out of range .*found 7200s"),
    ("issuer: http://example.org", "issuer is not an address"),
    ("issuer: https://x:0", "issuer has an impossible port"),
    ("nats: {servers: ['nats://a:65536']}", "impossible port .*65536"),
    ("state_dir: ~/keys", "state_dir is not expanded .*write it out in full"),
    ("state_dir: $HOME/keys", "state_dir is not expanded"),
    ('state_dir: "a\\0b"', "state_dir is not a path"),
    ("state_dir: ' a'", "state_dir is not a path"),
    ("state_dir: /run/keydist/", "state_dir and runtime_dir are one directory"),
    ("nats: {creds_file: /c, nkey_file: /n}", "exclude each other"),
    ("nats: {bucket: keydist-nodes}", "bucket is that of the node records"),
    (f"nats: {{bucket: {'b' * 64}, entry: {'e' * 190}}}", "at most 256 characters, found 258 characters"),
    ("hooks: [{run: [/a]}, {run: [/a], timeout: 1m, retries: 0}]", "entry 2 does what an earlier one does"),
    ("hooks: [{run: [/a], timeout: 2h}]", "entry 1: timeout is out of range .*found 7200s"),
    ("key: {alg: ES256, bits: 3072}", "key.bits is only for RSA .*remove key.bits"),
    ("policy: {propagation: 60}", r"policy.propagation is too short \(expected at least .* = 480, found 60\)"),
    ("policy: {freshness: 0}", "policy.freshness is not an integer in range"),
]

SECRETS = [
    ("token_file: {}", TOKEN),
    ("nats: {{nkey_file: {}}}", SEED),
    ("nats: {{creds_file: '-----BEGIN NATS USER JWT----- {}'}}", "hunter2"),
    ("nats: {{servers: ['nats://me:{}@nats:4222']}}", "hunter2"),
    ("nats: {{servers: ['me:{}@nats:4222']}}", "hunter2"),
    ("nats: {{creds_file: 'nats://me:{}@nats'}}", "hunter2"),
    ("nats: {{servers: 'nats://me:{}@nats'}}", "hunter2"),
    ("nats: '{}'", "hunter2"),
    ("hooks: [{{run: [/a, 'https://me:{}@x']}}]", "hunter2"),
    ("hooks: [{{run: [/a, --token, {}]}}]", TOKEN),
    ("issuer: https://me:{}@x", "hunter2"),
    ("issuer: https://x/?token={}", "hunter2"),
    ("node: 'me@{}'", "hunter2"),
    ("nats: {{password: {}}}", "hunter2"),
    ("nats: {{password: '{}'", "hunter2"),
    ("nats: {{password: !x {}}}", "hunter2"),
    ("nats: {{password: *{}}}", "hunter2"),
]
