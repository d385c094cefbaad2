"""Tenants as their clients and their operator meet them: over HTTP, with OpenAI's client, in metrics and logs."""

import asyncio
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import structlog

from prfaas.contracts.to_decode import Generate
from prfaas.secrets.api_keys import make_key
from prfaas.secrets.secret_files import write_secret
from prfaas.secrets.tenants_file import Limits, add_key, revoke_key
from prfaas_gateway.tenants import access, reload
from tests.gateway.conftest import Edge, make_tenants, running_edge, until
from tests.gateway.scripted_site import DEADLINE_S, Emitter

ASK = {"model": "tiny", "prompt": "hello"}
"""A prompt of one token and a default answer of 16 at most; the scripted one has four."""
TODAY = datetime.date(2026, 11, 29)


async def ask(edge: Edge, key: str, **more: Any) -> httpx.Response:
    return await edge.post("/v1/completions", ASK | more, authorization=f"Bearer {key}")


def limit_of(answer: httpx.Response, status: int = 429) -> str:
    """Checks that a refusal is complete. Returns its message."""
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, "rate_limit_exceeded" if status == 429 else "request_exceeds_limit")
    assert error["message"]
    if status == 429:
        assert int(answer.headers["retry-after"]) >= 1
    else:
        assert answer.headers["x-should-retry"] == "false" and "retry-after" not in answer.headers
    return str(error["message"])


async def test_requests_a_minute_are_counted_over_all_keys_before_any_work_is_done(tmp_path: Path) -> None:
    path, keys = make_tenants(tmp_path, {"small": Limits(requests_per_minute=2), "other": Limits()})
    add_key(Path(path), second := make_key(), "small", Limits(), TODAY)
    async with running_edge(tmp_path, tenants_file=path) as edge:
        answers = [await ask(edge, key) for key in (keys["small"], second.text)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0"]
        assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"2"}
        assert float(answers[1].headers["x-ratelimit-reset-requests"].removesuffix("s")) > 0
        asked = len(edge.site.placed)
        # A body that is no JSON would be 400: it was not even read.
        refused = await edge.post("/v1/completions", b"{", authorization=f"Bearer {keys['small']}")
        assert "2 requests a minute" in limit_of(refused) and "small" not in refused.text
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert len(edge.site.placed) == asked
        other = await ask(edge, keys["other"])
        assert other.status_code == 200 and "x-ratelimit-limit-requests" not in other.headers
        assert edge.metric("prfaas_request_failures_total", code="rate_limit_exceeded") == 1


async def test_openais_client_comes_back_when_it_was_told_to_and_is_served(tmp_path: Path) -> None:
    path, keys = make_tenants(tmp_path, {"small": Limits(requests_per_minute=60)})
    async with running_edge(tmp_path, tenants_file=path) as edge, edge.openai(api_key=keys["small"]) as hasty:
        with pytest.raises(openai.RateLimitError) as raised:
            while True:
                await hasty.completions.create(model="tiny", prompt="x")
        assert raised.value.response.headers["retry-after"] == "1"
        before = edge.metric("prfaas_tenant_refusals_total", tenant="", limit="requests_per_minute")
        async with edge.openai(api_key=keys["small"], max_retries=2) as patient:
            while edge.metric("prfaas_tenant_refusals_total", tenant="", limit="requests_per_minute") == before:
                assert (await patient.completions.create(model="tiny", prompt="x")).choices[0].text == "hello world"
        assert edge.metric("prfaas_tenant_refusals_total", tenant="", limit="requests_per_minute") == before + 1, (
            "told to come back, it came back once: neither too early nor in vain"
        )


async def test_tokens_are_reserved_and_those_not_used_come_back(tmp_path: Path) -> None:
    path, keys = make_tenants(tmp_path, {"small": Limits(tokens_per_minute=40)})
    async with running_edge(tmp_path, tenants_file=path) as edge:
        answer = await ask(edge, keys["small"], max_tokens=20)
        prompt_tokens = answer.json()["usage"]["prompt_tokens"]
        assert answer.headers["x-ratelimit-limit-tokens"] == "40"
        assert int(answer.headers["x-ratelimit-remaining-tokens"]) == 40 - 20 - prompt_tokens
        again = await ask(edge, keys["small"], max_tokens=20)
        assert int(again.headers["x-ratelimit-remaining-tokens"]) >= 40 - (4 + prompt_tokens) - (20 + prompt_tokens)
        assert "40 tokens a minute" in limit_of(await ask(edge, keys["small"], max_tokens=40 - prompt_tokens))
        assert "40 tokens a minute" in limit_of(await ask(edge, keys["small"], max_tokens=60), 400)
        assert (await ask(edge, keys["small"], max_tokens=20)).status_code == 200
        assert edge.metric("prfaas_tenant_tokens_total", tenant="") == 3 * (4 + prompt_tokens)


async def test_one_more_request_at_once_is_refused_while_others_run(tmp_path: Path) -> None:
    path, keys = make_tenants(tmp_path, {"small": Limits(requests_at_once=2), "other": Limits()})
    may_end = asyncio.Event()

    async def wait_then_end(_generate: Generate, emit: Emitter) -> None:
        await emit.started()
        await emit.tokens("x")
        await may_end.wait()
        await emit.finished(1)

    async with running_edge(tmp_path, tenants_file=path) as edge:
        edge.site.script = wait_then_end
        running = [asyncio.create_task(ask(edge, keys["small"])) for _ in range(2)]
        await until(lambda: len(edge.site.running) == 2)
        assert "2 requests at once" in limit_of(await ask(edge, keys["small"]))
        other = asyncio.create_task(ask(edge, keys["other"]))
        await until(lambda: len(edge.site.running) == 3)
        may_end.set()
        assert [answer.status_code for answer in await asyncio.gather(*running, other)] == [200] * 3
        assert (await ask(edge, keys["small"])).status_code == 200


async def test_a_client_that_leaves_gives_its_place_back(tmp_path: Path) -> None:
    path, keys = make_tenants(tmp_path, {"small": Limits(requests_at_once=1)})

    async def never_end(_generate: Generate, emit: Emitter) -> None:
        await emit.started()
        await emit.tokens("x")
        await asyncio.Event().wait()

    async with running_edge(tmp_path, tenants_file=path) as edge:
        edge.site.script = never_end
        for number in range(3):
            leaving = asyncio.create_task(ask(edge, keys["small"]))
            await until(lambda started=number + 1: len(edge.site.generated) == started)  # type: ignore[misc]
            leaving.cancel()
            await until(lambda: edge.service.requests_running == 0)


async def test_bytes_over_links_are_counted_and_keep_later_requests_out(tmp_path: Path) -> None:
    path, keys = make_tenants(tmp_path, {"small": Limits(link_bytes_per_day=1500)})
    async with running_edge(tmp_path, tenants_file=path) as edge:
        for stream in (True, False):  # 1,000 bytes each came from another site
            assert (await ask(edge, keys["small"], stream=stream)).status_code == 200
        refused = await ask(edge, keys["small"])
        assert "1500 bytes a day over links" in limit_of(refused)
        assert int(refused.headers["retry-after"]) > 3600
        assert edge.metric("prfaas_tenant_link_bytes_total", tenant="") == 2000


@pytest.mark.slow
async def test_keys_are_rotated_under_load_and_no_request_is_lost(tmp_path: Path) -> None:
    path, keys = make_tenants(tmp_path, {"acme": Limits(requests_per_minute=100_000)})
    current, ended = keys["acme"], asyncio.Event()
    statuses: list[list[int]] = [[] for _ in range(4)]

    async def load(edge: Edge, own: list[int]) -> None:
        while not ended.is_set():
            own.append((await ask(edge, current)).status_code)

    async with running_edge(tmp_path, tenants_file=path) as edge:
        loading = [asyncio.create_task(load(edge, own)) for own in statuses]
        for _ in range(3):
            old, new = current, make_key()
            add_key(Path(path), new, "acme", Limits(), TODAY)
            async with asyncio.timeout(DEADLINE_S):
                while (await ask(edge, new.text)).status_code == 401:
                    await asyncio.sleep(0.05)
            current = new.text
            asked = [len(own) for own in statuses]
            # Then the old key is in no request any more.
            await until(lambda since=asked: all(len(own) > count + 1 for own, count in zip(statuses, since, strict=True)))  # type: ignore[misc]
            revoke_key(Path(path), old[10:18], TODAY)
            async with asyncio.timeout(DEADLINE_S):
                while (await ask(edge, old)).status_code != 401:
                    await asyncio.sleep(0.05)
        ended.set()
        await asyncio.gather(*loading)
        assert {status for own in statuses for status in own} == {200}
        assert edge.metric("prfaas_tenants_file_reloads_total", result="taken") == 6


async def test_a_new_file_that_cannot_be_used_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "log", structlog.get_logger())
    path, keys = make_tenants(tmp_path, {"acme": Limits()})
    file = Path(path)
    good = file.read_bytes()  # noqa: ASYNC240
    ways: list[Callable[[], object]] = [lambda: file.write_text("[tenants.acme"), lambda: file.chmod(0o644), file.unlink]
    async with running_edge(tmp_path, tenants_file=path) as edge:
        with structlog.testing.capture_logs() as lines:
            for number, break_it in enumerate(ways):
                break_it()
                await until(
                    lambda count=number + 1: edge.metric("prfaas_tenants_file_reloads_total", result="refused") == count  # type: ignore[misc]
                )
                assert (await ask(edge, keys["acme"])).status_code == 200
        said = [line["error"] for line in lines if line["event"] == "tenants_file_refused"]
        assert len(said) == 3 and all(path in sentence for sentence in said)
        assert "chmod 600" in said[1]
        write_secret(file, good.replace(b"[tenants.acme]", b"[tenants.acme]\nrequests-per-minute = 7"))
        async with asyncio.timeout(DEADLINE_S):
            while (await ask(edge, keys["acme"])).headers.get("x-ratelimit-limit-requests") != "7":
                await asyncio.sleep(0.05)


async def test_every_refusal_has_an_audit_line_with_no_key_and_no_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "log", structlog.get_logger())
    path, keys = make_tenants(tmp_path, {"acme": Limits(requests_per_minute=1), "wide": Limits(tokens_per_minute=5)})
    stranger = make_key().text
    async with running_edge(tmp_path, tenants_file=path) as edge:
        with structlog.testing.capture_logs() as lines:
            for key in (keys["acme"], keys["acme"], stranger, "my-password", keys["wide"]):
                await edge.post(
                    "/v1/completions", {**ASK, "prompt": "hello hello"}, authorization=f"Bearer {key}", x_request_id="mine"
                )
            await edge.get("/v1/models")
    audit = [line for line in lines if line.get("audit")]
    assert [(line["event"], line.get("why") or line["limit"], line.get("tenant")) for line in audit] == [
        ("limit_reached", "requests_per_minute", "acme"),
        ("key_refused", "unknown", None),
        ("key_refused", "unknown", None),
        ("limit_reached", "tokens_per_minute", "wide"),
        ("key_refused", "missing", None),
    ]
    assert [line["key_id"] for line in audit] == [keys["acme"][10:18], stranger[10:18], None, keys["wide"][10:18], None]
    assert all(line["client"] == "127.0.0.1" for line in audit)
    assert [line["client_request_id"] for line in audit[:4]] == ["mine"] * 4
    everything = str(lines)
    for secret in (*(key[19:] for key in keys.values()), stranger[19:], "my-password", "hello hello"):
        assert secret not in everything


@pytest.mark.parametrize("named", [False, True])
async def test_metrics_name_tenants_only_where_that_is_asked_for(tmp_path: Path, named: bool) -> None:
    path, keys = make_tenants(tmp_path, {"acme": Limits(requests_per_minute=1), "beta": Limits()})
    async with running_edge(tmp_path, tenants_file=path, tenant_metrics=named) as edge:
        for name in ("acme", "acme", "beta"):
            await ask(edge, keys[name])
        page = (await edge.get("/metrics")).text
        assert ("acme" in page, "beta" in page) == (named, named)
        labels = {"tenant": "acme" if named else "", "limit": "requests_per_minute"}
        assert edge.metric("prfaas_tenant_refusals_total", **labels) == 1
