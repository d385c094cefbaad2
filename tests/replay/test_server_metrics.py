from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from prfaas.replay.results import Series
from prfaas.replay.server_metrics import GOODPUT, KV_BYTES, RUNNING, merged, values_of
from prfaas.replay.service_charts import per_second


def page(kv_bytes: float, running: float, goodput: float) -> str:
    registry = CollectorRegistry()
    link = ["source", "destination"]
    kv = Counter("prfaas_kv_transfer_bytes", "KV.", [*link, "result"], registry=registry)
    kv.labels("far", "home", "verified").inc(kv_bytes)
    kv.labels("far", "home", "failed").inc(1)
    Gauge("vllm:num_requests_running", "Running.", ["model_name"], registry=registry).labels("m").set(running)
    Gauge(GOODPUT, "Goodput.", link, registry=registry).labels("far", "home").set(goodput)
    Gauge("something_else", "Else.", registry=registry).set(1)
    return generate_latest(registry).decode()


def test_counts_of_several_services_add_up_and_estimates_do_not() -> None:
    link = (("source", "far"), ("destination", "home"))
    found = merged([values_of(page(10, 2, 5e6)), values_of(page(20, 3, 7e6))])
    assert found == {(KV_BYTES, link): 32.0, (RUNNING, ()): 5.0, (GOODPUT, link): 7e6}


def test_names_that_an_old_format_has_bent_are_straightened() -> None:
    assert values_of(page(1, 2, 3).replace("vllm:", "vllm_"))[RUNNING, ()] == 2


def test_a_counter_that_was_started_anew_has_no_rate_there() -> None:
    series = Series(name=KV_BYTES, at_s=[0.0, 1.0, 2.0, 4.0], values=[10.0, 30.0, 0.0, 8.0])
    assert per_second(series) == ([1.0, 4.0], [20.0, 4.0])
