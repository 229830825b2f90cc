"""Runs the official SDK in a process of its own: a job in JSON on stdin, what came of it in JSON on stdout.

The SDK lies in a folder of its own, which the caller puts on the path; nothing of this project is imported.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from datetime import datetime
from types import SimpleNamespace
from typing import Any

vlunaai: Any = importlib.import_module("vlunaai")
models: Any = importlib.import_module("vlunaai.generated.gate_models")
httpx: Any = importlib.import_module("httpx")

MODELS = {
    "authorize": "AuthorizeRequest",
    "commits": "SingleCommit",
    "commits/batch": "BatchCommitRequest",
    "ingest": "IngestCommit",
    "cancel": "CancelRequest",
    "preflight": "PreflightRequest",
}
METHODS = {"commits": "commit", "commits/batch": "commit_batch", "limits": "list_feature_limits"}


def make_client(job: dict[str, Any]) -> Any:
    config = vlunaai.VlunaAIConfig(base_url=job["base_url"], realm_id=job["realm_id"])
    service_key = vlunaai.ServiceKeyCredentials(key_id=job["key_id"], secret=job["secret"])
    return vlunaai.create_service_client(vlunaai.ServiceClientOptions(config=config, service_key=service_key))


def context(call: dict[str, Any]) -> Any:
    fields = {"principal_id": call["principal_id"], "idempotency_key": call["key"]}
    if call["user_id"] is not None:
        fields["user_id"] = call["user_id"]
    return vlunaai.RequestContext(**fields)


def freeze(job: dict[str, Any]) -> None:
    """Give the SDK a clock that stands still and a nonce that is known."""
    auth: Any = importlib.import_module("vlunaai.core.auth.service_key")
    auth.datetime = SimpleNamespace(now=lambda _: datetime.fromisoformat(job["ts"]))
    auth.secrets = SimpleNamespace(token_hex=lambda _: job["nonce"])


async def sign(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Send the given texts as they are, and return the requests that would have left."""
    freeze(job)
    requests: list[dict[str, Any]] = []

    def capture(request: Any) -> Any:
        requests.append(
            {
                "method": request.method,
                "target": request.url.raw_path.decode(),
                "headers": dict(request.headers),
                "content": request.content.decode(),
            }
        )
        return httpx.Response(200, json={})

    client = make_client(job)
    await client.close()
    client._http._client = httpx.AsyncClient(transport=httpx.MockTransport(capture))
    for call in job["calls"]:
        await client._http.request(
            path=f"/gate/{call['path']}",
            method="POST",
            body=call["content"],
            context=context(call),
            operation=call["path"],
        )
    await client.close()
    return requests


async def model(job: dict[str, Any]) -> list[Any]:
    """Read the given texts with the SDK's own models, and return what these would send."""
    return [
        getattr(models, MODELS[call["path"]])
        .model_validate_json(call["content"])
        .model_dump(mode="json", exclude_unset=True)
        for call in job["calls"]
    ]


async def talk(job: dict[str, Any]) -> list[Any]:
    """Make the given calls, `$n.path` standing for a part of the n-th answer; return the answers."""
    client = make_client(job)
    answers: list[Any] = []

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: resolve(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [resolve(inner) for inner in value]
        if isinstance(value, str) and value.startswith("$"):
            index, *path = value[1:].split(".")
            found = answers[int(index)]
            for name in path:
                found = found[name]
            return found
        return value

    for call in job["calls"]:
        method = getattr(client, f"gate_{METHODS.get(call['path'], call['path'])}")
        arguments = {"query": call["query"]} if "query" in call else {"body": resolve(call["body"])}
        answer = await method(context=context(call), **arguments)
        answers.append(answer.model_dump(mode="json"))
    await client.close()
    return answers


if __name__ == "__main__":
    given = json.loads(sys.stdin.read())
    json.dump(asyncio.run({"sign": sign, "model": model, "talk": talk}[given["mode"]](given)), sys.stdout)
