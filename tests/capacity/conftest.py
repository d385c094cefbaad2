import pytest

from prfaas.capacity.builtin import builtin_profile
from prfaas.capacity.lengths import TruncatedLogNormal
from prfaas.planner.solver import TwoSites


@pytest.fixture
def paper_lengths() -> TruncatedLogNormal:
    """The paper's distribution of prompt lengths (section 4.1)."""
    return TruncatedLogNormal(mu=9.90, sigma=1.00, low_tokens=128, high_tokens=131072)


@pytest.fixture
def paper_case(paper_lengths: TruncatedLogNormal) -> TwoSites:
    """Section 4.1, with Table 5 alone for the H200."""
    return TwoSites(
        lengths=paper_lengths,
        output_tokens=1024,
        prfaas=builtin_profile("paper-1t-h200"),
        n_prfaas=4,
        pd=builtin_profile("paper-1t-h20"),
        n_pd=8,
        egress_bytes_per_s=100e9 / 8,
        decode_tokens_per_s=40,
    )


@pytest.fixture
def anchored_case(paper_case: TwoSites) -> TwoSites:
    """The same with the two points that Table 6 implies."""
    return paper_case._replace(prfaas=builtin_profile("paper-1t-h200-anchored"))
