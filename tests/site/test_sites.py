from pathlib import Path

import pytest

from prfaas.site.service_settings import unleased_bytes_per_s
from prfaas.site.sites import DescriptionError, Role, SiteKind, load_description
from prfaas.stack.launch import DEMO

TWO_SITES = """
model = "m"
[[sites]]
name = "local"
kind = "pd"
[[sites]]
name = "remote"
kind = "prfaas"
dials = ["local"]
"""


def load(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sites.toml"
    path.write_text(text)
    load_description(path)


def test_the_demo_is_a_pd_site_and_a_prefill_only_one_over_an_emulated_link() -> None:
    demo = load_description(DEMO)
    assert [(site.name, site.kind) for site in demo.in_dial_order()] == [("local", SiteKind.PD), ("remote", SiteKind.PRFAAS)]
    link = demo.link("remote", "local")
    assert link is not None
    assert (link.rate_mbit, link.rtt_ms) == (200, 20)
    roles = {site.name: sorted(service.role for service in demo.services if service.site == site.name) for site in demo.sites}
    assert roles == {"local": sorted(Role), "remote": [Role.BANDWIDTH_PROBE, Role.PREFILL_WORKER, Role.SCHEDULER]}
    assert demo.served_sites("remote") == ["local"]
    assert [site.name for site in demo.neighbours("local")] == ["remote"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modle = 'm'", "modle"),
        (TWO_SITES + "prot = 1", r"prot.*sites\[1\]"),
        (TWO_SITES.replace("prfaas", "prefill"), r"prefill.*kind"),
        (TWO_SITES.replace('"remote"', '"local"'), "same name"),
        (TWO_SITES.replace('dials = ["local"]', 'dials = ["locl"]'), "no site is called 'locl'"),
        (TWO_SITES.replace('dials = ["local"]', 'dials = ["remote"]'), "dials itself"),
        (TWO_SITES.replace('kind = "pd"', 'kind = "pd"\ndials = ["remote"]'), "in a ring"),
        (TWO_SITES + '[[links]]\nbetween = ["local", "remote"]', "local does not dial remote"),
        (TWO_SITES + '[[links]]\nbetween = ["remote", "local"]\nrate-mbit = 0', "rate-mbit is 0"),
        (TWO_SITES + '[[services]]\nsite = "remote"\nrole = "gateway"', "cannot run a gateway"),
        (TWO_SITES + '[[services]]\nsite = "remote"\nrole = "prefill"', r"prefill.*services\[0\]"),
        (TWO_SITES + 2 * '[[services]]\nsite = "local"\nrole = "gateway"\nname = "g"\n', "same name: g"),
        (TWO_SITES + "egress-mbit = { local = 400 }", "no bandwidth probe to share it out"),
        (TWO_SITES + "egress-mbit = { elsewhere = 400 }", "a budget for elsewhere, which is no pd site beside it"),
        (TWO_SITES + "egress-mbit = { local = 0 }", r"egress-mbit"),
        ("model = ", "Invalid value"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DescriptionError, match=said) as caught:
        load(tmp_path, text)
    assert "sites.toml" in str(caught.value)


def test_a_budget_is_stated_once_and_reaches_the_probe_and_the_workers(tmp_path: Path) -> None:
    path = tmp_path / "sites.toml"
    workers = 2 * '[[services]]\nsite = "remote"\nrole = "prefill-worker"\n'
    path.write_text(
        TWO_SITES + "egress-mbit = { local = 400 }\n" + workers + '[[services]]\nsite="remote"\nrole="bandwidth-probe"'
    )
    description = load_description(path)
    assert description.site("remote").egress_mbit == {"local": 400}
    assert unleased_bytes_per_s(description, "remote") == pytest.approx(0.96 * 50e6 / 2)
    assert unleased_bytes_per_s(description, "local") is None


def test_several_services_of_one_role_get_numbers(tmp_path: Path) -> None:
    path = tmp_path / "sites.toml"
    path.write_text(
        TWO_SITES + 2 * '[[services]]\nsite = "local"\nrole = "prefill-worker"\n' + '[[services]]\nsite="local"\nrole="gateway"'
    )
    names = [service.name for service in load_description(path).services]
    assert names == ["prefill-worker-1", "prefill-worker-2", "gateway"]


MEMORY = """
[[services]]
site = "local"
role = "{role}"
config = {{ {keys} }}
"""


@pytest.mark.parametrize(
    ("role", "keys", "mib"),
    [
        ("decode-worker", "", 1024),
        ("decode-worker", "bucket-mib = 64", 64),
        ("prefill-worker", "movable = true, cache-pulls = false", 1024),
        ("prefill-worker", "movable = true, pull-bucket-mib = 32", 1024),
    ],
)
def test_a_server_without_the_memory_of_its_kv_buckets_is_refused(tmp_path: Path, role: str, keys: str, mib: int) -> None:
    services = MEMORY.format(role=role, keys=keys)
    needed_bytes = (mib + 32 * ("pull-bucket" in keys)) << 20
    load(tmp_path, TWO_SITES.replace('kind = "pd"', f'kind = "pd"\nmax-memory-bytes = {needed_bytes}') + services)
    with pytest.raises(DescriptionError, match=f"{role}.*{mib} MiB.*max-memory-bytes.*at least {needed_bytes}"):
        load(tmp_path, TWO_SITES.replace('kind = "pd"', f'kind = "pd"\nmax-memory-bytes = {needed_bytes - 1}') + services)


def test_a_site_that_only_prefills_needs_no_memory_for_kv(tmp_path: Path) -> None:
    load(tmp_path, TWO_SITES.replace('kind = "prfaas"', 'kind = "prfaas"\nmax-memory-bytes = 1048576'))


def test_prefixes_are_pulled_from_sites_only_that_send_kv_here(tmp_path: Path) -> None:
    load(tmp_path, TWO_SITES.replace('kind = "pd"', 'kind = "pd"\npulls-from = ["remote"]'))
    for wrong in (
        TWO_SITES.replace('kind = "pd"', 'kind = "pd"\npulls-from = ["local"]'),
        TWO_SITES.replace('kind = "prfaas"', 'kind = "prfaas"\npulls-from = ["local"]'),
    ):
        with pytest.raises(DescriptionError, match="which sends it no KV"):
            load(tmp_path, wrong)
