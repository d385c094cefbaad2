"""Rows of the terminal's tables, from the state that is followed. Pure."""

from collections import Counter
from typing import Final

from rich.text import Text

from prfaas.console.changes import FollowedState
from prfaas.console.schema import (
    SLOT_S,
    SOLE,
    GatewayItem,
    LinkItem,
    RequestDetail,
    RequestItem,
    SchedulerItem,
    SiteItem,
    SlotItem,
    WorkerItem,
)
from prfaas.console.words import bar, clock, plain, rate, seconds, size, span

Row = tuple[Text, ...]
SITE_COLUMNS: Final = ("Site", "Workers", "Queue", "Placed", "Sending", "", "Budget", "Carries", "RTT", "KV under way")
WORKER_COLUMNS: Final = ("Worker", "Site", "Role", "Batch", "", "Queue", "KV cache", "Model")
REQUEST_COLUMNS: Final = ("Time", "Outcome", "Prefilled at", "Prompt", "Answer", "TTFT", "Total")
_STYLES: Final = {"offloaded": "cyan", "local": "", "fallback": "yellow", "failed": "red", "other": "magenta", "": "dim"}
_MINUTE_SLOTS: Final = 60 // SLOT_S


def summary(state: FollowedState) -> str:
    """Returns two lines: who tells, and the last minute."""
    gateway = state.section("gateway", GatewayItem).get(SOLE)
    if gateway is None:
        return "Nothing has been told yet."
    scheduler = state.section("scheduler", SchedulerItem).get(SOLE)
    policy = "no scheduler answers"
    if scheduler is not None:
        threshold = "" if scheduler.threshold_tokens is None else f", t = {scheduler.threshold_tokens:,.0f} tokens"
        silent = f", silent for {seconds(scheduler.silent_s)}" if scheduler.silent_s else ""
        policy = f"policy {scheduler.policy}{threshold}, term {scheduler.term}{silent}"
    ended, ttft = _last_minute(state)
    total = sum(ended.values())
    share = f"{ended['offloaded'] / total:.0%}" if total else "–"
    whose = "all requests" if gateway.whole else "your requests"
    first = f"{gateway.site} / {gateway.gateway}   {policy}   {whose}"
    second = (
        f"under way {gateway.running}   last minute: ended {total}, offloaded {share}, failed {ended['failed']}   "
        f"TTFT P50 {seconds(ttft.ttft_p50_s if ttft else None)}, P90 {seconds(ttft.ttft_p90_s if ttft else None)}"
    )
    return plain(first) + "\n" + plain(second)


def site_rows(state: FollowedState) -> dict[str, Row]:
    """Returns a row for each site: its queue, and its link to the own one."""
    rows = {}
    links = {link.source: link for link in state.section("links", LinkItem).values()}
    for name, site in sorted(state.section("sites", SiteItem).items(), key=lambda each: (each[1].own, each[0])):
        link = links.get(name)
        told = [plain(name), _workers(site), seconds(site.wait_s), str(site.placed)]
        if link is None:
            told += ["own site" if site.own else "no link is known", "", "", "", "", ""]
        else:
            full = max(link.budget_bytes_per_s or 0, link.goodput_bytes_per_s, link.sent_bytes_per_s or 0) or 1.0
            told += [rate(link.sent_bytes_per_s), bar((link.sent_bytes_per_s or 0) / full, 10), rate(link.budget_bytes_per_s)]
            told += [rate(link.goodput_bytes_per_s), seconds(link.rtt_s), size(link.owed_bytes)]
        failing = site.distrusted or site.breaker != "closed"
        rows[name] = tuple(Text(cell, style="red" if failing else "") for cell in told)
    return rows


def worker_rows(state: FollowedState) -> dict[str, Row]:
    rows = {}
    for key, worker in sorted(state.section("workers", WorkerItem).items()):
        decodes = worker.role == "decode"
        share = worker.running / worker.slots if decodes and worker.slots else float(worker.running)
        told = [
            plain(worker.name),
            plain(worker.site),
            plain(worker.role) + (" leaving" if worker.draining else ""),
            f"{worker.running}/{worker.slots}" if decodes else ("busy" if worker.running else "idle"),
            bar(share, 10),
            str(worker.waiting) if decodes else "–",
            "–" if worker.cache_usage is None else f"{worker.cache_usage:.0%}",
            plain(worker.model),
        ]
        rows[key] = tuple(Text(cell, style="dim" if worker.draining else "") for cell in told)
    return rows


def request_rows(state: FollowedState) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    requests = sorted(state.section("requests", RequestItem).items(), key=lambda each: each[1].arrived_unix_s, reverse=True)
    for key, request in requests:
        became = request.error or request.outcome
        group = request.outcome.partition("_")[0]
        if request.error:
            group = "other" if 400 <= request.status < 500 else "failed"
        rows[key] = (
            Text(clock(request.arrived_unix_s)),
            Text(plain(became).replace("_", " ") or "under way", style=_STYLES.get(group, "")),
            Text(plain(request.prefill_site) or "–"),
            Text(f"{request.prompt_tokens:,}", justify="right"),
            Text(f"{request.completion_tokens:,}", justify="right"),
            Text(seconds(request.ttft_s), justify="right"),
            Text("…" if request.duration_s is None else seconds(request.duration_s), justify="right"),
        )
    return rows


def waterfall(detail: RequestDetail, width: int) -> Text:
    """Draws the stages of one request in `width` columns."""
    end_s = max((stage.end_s for stage in detail.stages), default=0.0) or 1e-6
    bar_width = max(16, width - 52)
    shown = Text(no_wrap=True)
    for stage in detail.stages:
        drawn = span(stage.start_s / end_s, stage.end_s / end_s, bar_width)
        time = seconds(stage.end_s - stage.start_s)
        shown.append(f"{plain(stage.name)[:18]:<19}{plain(stage.place)[:22]:<23}")
        shown.append(drawn, style="blue")
        shown.append(f" {time:>8}\n")
        if stage.name != "placement" and stage.detail:
            marks = f" in {len(stage.marks)} steps" if len(stage.marks) > 1 else ""
            shown.append(f"{'':<19}{plain(stage.detail)}{marks}\n", style="dim")
    facts = [("why there", detail.reason), ("request", detail.request.id), ("trace", detail.trace_id)]
    facts += [("X-Request-ID", detail.client_request_id), ("error", detail.request.error)]
    for name, text in facts:
        if text:
            shown.append(f"\n{name:<19}", style="dim")
            shown.append(plain(text))
    return shown


def _workers(site: SiteItem) -> str:
    return " + ".join(
        f"{count} {role}" for count, role in ((site.prefill_workers, "prefill"), (site.decode_workers, "decode")) if count
    )


def _last_minute(state: FollowedState) -> tuple[Counter[str], SlotItem | None]:
    """Returns the ends of the last minute by what became of the requests, and the latest slot with a first token."""
    newest = int(state.at_unix_s // SLOT_S)
    recent = {int(key): slot for key, slot in state.section("slots", SlotItem).items() if int(key) > newest - _MINUTE_SLOTS}
    ended: Counter[str] = Counter()
    for slot in recent.values():
        ended.update(slot.ended)
    with_token = [slot for _, slot in sorted(recent.items()) if slot.ttft_count]
    return ended, with_token[-1] if with_token else None
