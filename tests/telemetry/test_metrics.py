"""The shared metrics: names that dashboards know, no clash between them, and what the recording methods count."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from prfaas.contracts.kv import TransferReport
from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_scheduler import LinkEstimate
from prfaas.replay.server_metrics import BUDGET, THRESHOLD
from prfaas.telemetry.metrics.decode import DecodeMetrics
from prfaas.telemetry.metrics.gateway import GatewayMetrics
from prfaas.telemetry.metrics.link import LinkMetrics
from prfaas.telemetry.metrics.prefill import PrefillMetrics
from prfaas.telemetry.metrics.scheduler import SchedulerMetrics
from prfaas.telemetry.metrics.transfer import SendMetrics, TransferMetrics, overlap_ratio

LINK = {"source": "west", "destination": "east"}


def test_all_of_them_fit_into_one_registry_under_the_names_that_vllm_users_know() -> None:
    registry = CollectorRegistry()
    requests = GatewayMetrics(registry).model("m")
    requests.time_to_first_token.observe(0.3)
    requests.inter_token.observe(0.02)
    requests.e2e.observe(1.5)
    requests.prompt_tokens.inc(4000)
    requests.generation_tokens.inc(32)
    decode = DecodeMetrics(registry, "m")
    decode.watch(running=lambda: 2, waiting=lambda: 0, cache_usage_ratio=lambda: 0.5)
    PrefillMetrics(registry, "m").job("done")
    TransferMetrics(registry)
    SendMetrics(registry)
    SchedulerMetrics(registry).placed(Outcome.OFFLOADED, "west")
    LinkMetrics(registry).estimated(
        LinkEstimate(source="west", destination="east", rtt_s=0.02, goodput_bytes_per_s=2.4e7, samples=5, retransmit_share=0.0)
    )
    families = {family.name for family in text_string_to_metric_families(generate_latest(registry).decode())}
    assert families >= {
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:time_to_first_token_seconds",
        "vllm:inter_token_latency_seconds",
        "vllm:e2e_request_latency_seconds",
        "vllm:request_queue_time_seconds",
        "vllm:request_prefill_time_seconds",
        "vllm:request_decode_time_seconds",
        "vllm:prompt_tokens",
        "vllm:generation_tokens",
        "vllm:request_success",
    }
    model = {"model_name": "m"}
    assert registry.get_sample_value("vllm:prompt_tokens_total", model) == 4000
    assert registry.get_sample_value("vllm:time_to_first_token_seconds_bucket", {**model, "le": "0.5"}) == 1
    assert registry.get_sample_value("vllm:time_to_first_token_seconds_bucket", {**model, "le": "0.25"}) == 0
    assert registry.get_sample_value("prfaas_placements_total", {"outcome": "offloaded", "prefill_site": "west"}) == 1
    assert registry.get_sample_value("prfaas_link_rtt_seconds", LINK) == 0.02


def test_transfers_are_counted_by_link_and_result() -> None:
    registry = CollectorRegistry()
    transfers = TransferMetrics(registry)
    report = TransferReport(bytes=1000, frames=4, lossy_frames=1, reused_tokens=512, saved_bytes=700, duration_s=2.0)
    transfers.verified("west", "east", report, residual_s=0.1)
    transfers.failed("west", "east", "corrupt", TransferReport(bytes=500, frames=2))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {**LINK, **labels})

    assert value("prfaas_kv_transfers_total", result="verified") == 1
    assert value("prfaas_kv_transfer_bytes_total", result="verified") == 1000
    assert value("prfaas_kv_transfer_bytes_total", result="corrupt") == 500
    assert value("prfaas_kv_transfer_frames_total", result="corrupt") == 2
    assert value("prfaas_kv_transfer_duration_seconds_sum") == 2.0
    assert value("prfaas_kv_transfer_residual_seconds_sum") == 0.1
    assert value("prfaas_kv_transfer_overlap_ratio_sum") == 0.95


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_overlap_is_a_share(duration_s: float, residual_s: float) -> None:
    assert 0 <= overlap_ratio(duration_s, residual_s) <= 1


def test_overlap_of_what_was_hidden_wholly_half_and_not_at_all() -> None:
    assert [overlap_ratio(2, 0), overlap_ratio(2, 1), overlap_ratio(2, 2), overlap_ratio(2, 5), overlap_ratio(0, 0)] == [
        1,
        0.5,
        0,
        0,
        1,
    ]


def test_a_replays_report_finds_threshold_and_budget_under_the_names_that_it_reads() -> None:
    registry = CollectorRegistry()
    SchedulerMetrics(registry).watch_threshold(lambda: 19_400, registry)
    LinkMetrics(registry).budget("west", "east", 4e6)
    assert registry.get_sample_value(THRESHOLD) == 19_400
    assert registry.get_sample_value(BUDGET, LINK) == 4e6
