"""What an attack on the accounts is measured by, and the one that permissions cannot stop: the reply subject."""

from __future__ import annotations

import json
from typing import Any

from integration.forbidden import API, ASKED, HEADERS, USE, planted_at
from integration.secured import Secured
from integration.user import User


async def leave_traces(secured: Secured, *names: str) -> None:
    """Write a record and a trail as each of these users."""
    for name in names:
        async with secured.client(name) as client:
            for subject in (USE.records + name, USE.trail + name):
                assert "error" not in json.loads(
                    (await client.request(subject, b"of " + name.encode(), timeout=10)).data
                )


async def ask(client: User, subject: str, **query: object) -> dict[str, Any]:
    """Return the answer to a request of JetStream's API."""
    reply = await client.request(subject, json.dumps(query).encode() if query else b"", timeout=10)
    answer: dict[str, Any] = json.loads(reply.data)
    return answer


async def everything(secured: Secured) -> list[object]:
    """Return configuration and content of all streams, as the operator reads them."""
    found: list[object] = []
    async with secured.client("operator") as operator:
        for stream in USE.streams:
            info = await ask(operator, f"{API}.STREAM.INFO.{stream}", subjects_filter=">")
            kept = ("messages", "first_seq", "last_seq", "subjects", "consumer_count")  # without what is empty
            found += [info["config"], {name: info["state"].get(name) for name in kept}]
    return found


async def of_others(secured: Secured, attacker: str) -> list[object]:
    """Return the keyset, and records and trails of everybody but the attacker, with what the streams are."""
    async with secured.client("operator") as operator:
        found: list[object] = []
        for stream in USE.streams:
            info = await ask(operator, f"{API}.STREAM.INFO.{stream}", subjects_filter=">")
            held = {
                name: count for name, count in info["state"]["subjects"].items() if not name.endswith(f".{attacker}")
            }
            found += [info["config"], held, info["state"].get("consumer_count", 0)]
            for subject in held:
                found.append(await ask(operator, f"{API}.STREAM.MSG.GET.{stream}", last_by_subj=subject))
        return found


async def turn_around(attacker: User, name: str, *more: str, role: str | None = None) -> None:
    """Ask, as one of a role, for all that it may ask for, to be answered where it may not write, at `more` places too.

    `role` is that of `ASKED`, by default of this name. Return when all of it has arrived.
    """
    role = role or name
    asked = {subject.replace(role, name): data for subject, data in ASKED[role].items()}
    for subject, data in asked.items():
        for target in (*planted_at(role), *more):
            for headers in HEADERS:
                await attacker.publish(subject, data, reply=target, headers=headers)
    for subject, data in asked.items():  # whatever was sent before them has arrived
        await attacker.request(subject, data, timeout=10)
