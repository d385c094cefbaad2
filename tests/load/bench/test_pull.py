"""The figure of pulled prefixes: only from prompts that were pulled."""

import pytest

from load.bench.pull import PREFIX_TOKENS, RATE_MBIT, Turn, description, summary


def test_the_summary_is_of_prompts_that_were_pulled() -> None:
    pulled = Turn(pulled_s=1.0, computed_s=4.0, cached_tokens=PREFIX_TOKENS)
    assert summary([pulled, pulled._replace(pulled_s=2.0), pulled]) == {"pull_over_recompute_ttft": 0.25}
    with pytest.raises(RuntimeError, match="not pulled"):
        summary([pulled, pulled._replace(cached_tokens=0)])


def test_the_pd_site_may_pull_over_the_link() -> None:
    found = description()
    found.validate()
    assert found.pulled_sites("local") == ["local", "remote"] and found.pulling_sites("remote") == ["local", "remote"]
    assert [link.rate_mbit for link in found.links] == [RATE_MBIT]
