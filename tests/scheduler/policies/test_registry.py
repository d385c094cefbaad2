"""One registry of policies: the configuration, the live service, the simulation and the manual all name the same ones."""

import re
from pathlib import Path

import msgspec
import pytest

from load.bench.scheduler.fleet import make_policy as make_policy_of_bench
from load.simulate import policies as simulated
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.process.config import ConfigError, load_config
from prfaas_scheduler.config import SchedulerConfig
from prfaas_scheduler.policies.registry import POLICIES, PolicyOptions
from tests.scheduler.policies.places import choose, site

MANUAL = Path(__file__).parents[3] / "docs/operating.md"
KEYS = {"site": "home", "control": {"url": "nats://127.0.0.1:1"}}


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_has_the_name_that_it_is_registered_under_and_chooses(name: str) -> None:
    policy = POLICIES[name](PolicyOptions())
    assert policy.name == name
    assert choose(policy, 5000, site("home"), site("far", goodput_bytes_per_s=1e9)).reason


@pytest.mark.parametrize("name", POLICIES)
def test_the_live_service_the_simulation_and_the_bench_make_the_same_policy(name: str) -> None:
    live = SchedulerConfig(site="home", control=NatsEndpoint(url="nats://127.0.0.1:1"), policy=name).make_policy()
    in_simulation = simulated.make_policy({"policy": name})
    assert type(live) is type(in_simulation) is type(POLICIES[name](PolicyOptions())) is type(make_policy_of_bench(name))


def test_the_configuration_takes_every_registered_policy_and_no_other() -> None:
    for name in POLICIES:
        assert msgspec.convert(KEYS | {"policy": name}, SchedulerConfig).policy == name
    with pytest.raises(msgspec.ValidationError, match="policy"):
        msgspec.convert(KEYS | {"policy": "of_next_year"}, SchedulerConfig)
    assert tuple(POLICIES) == simulated.POLICIES


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        (["--policy", "predictive"], "key `policy`: invalid enum value 'predictive', which is gone: `priced` predicts"),
        (["--comfort-share", "0"], "key `comfort-share` is gone: policy `priced` weighs links and workers by their prices"),
    ],
)
def test_settings_of_earlier_versions_get_a_sentence_that_names_what_there_is_instead(setting: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_config(SchedulerConfig, argv=["--site", "home", "--control.url", "nats://127.0.0.1:1", *setting], environ={})


def test_options_and_configuration_have_the_same_defaults() -> None:
    config = SchedulerConfig(site="home", control=NatsEndpoint(url="nats://127.0.0.1:1"))
    assert PolicyOptions(*(getattr(config, key) for key in PolicyOptions._fields)) == PolicyOptions()


def test_the_manual_has_a_row_for_every_registered_policy() -> None:
    rows = set(re.findall(r"^\| `(\w+)`", MANUAL.read_text(), re.M))
    assert set(POLICIES) <= rows
