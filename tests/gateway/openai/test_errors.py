import pytest

from prfaas.contracts.codes import TOO_MANY, FailureCode
from prfaas.contracts.to_gateway import Failed
from prfaas_gateway.job import failure, refused
from prfaas_gateway.openai.errors import ApiError

HEARD = [code for code in FailureCode if {"scheduler", "decode worker", "bus"} & set(code.said_by.split(", "))]
REFUSALS = [code for code in HEARD if code.statuses != (500,)]
"""Codes with which a request may be refused; the others end one that was accepted."""


@pytest.mark.parametrize("code", REFUSALS)
def test_a_refusal_becomes_a_status_that_the_table_names(code: FailureCode) -> None:
    assert refused(code, "it is so", 1.0).status in code.statuses


@pytest.mark.parametrize("code", HEARD)
def test_a_failure_that_may_pass_is_a_503_or_a_429_and_any_other_a_500(code: FailureCode) -> None:
    failed = Failed(request_id="r", sequence=0, code=code, message="it is so", retry_after_s=7.2)
    assert (failure(failed).status, failure(failed).body.code) == (429 if code in TOO_MANY else 503, code)
    assert failure(failed).headers["retry-after"] == "8"
    assert failure(Failed(request_id="r", sequence=0, code=code, message="it is so")).status == 500


def test_an_unknown_code_is_shown_as_it_is_and_may_pass() -> None:
    error = refused("of_next_year", "it is so", 1.0)
    assert (error.status, error.body.code, error.retry_after_s) == (503, "of_next_year", 1.0)


@pytest.mark.parametrize("code", [code for code in FailureCode if code.statuses])
def test_clients_are_told_not_to_retry_what_a_retry_cannot_mend(code: FailureCode) -> None:
    for status in code.statuses:
        headers = ApiError(status, "it is so", code=code).headers
        assert headers.get("x-should-retry") == (None if code.retry else "false")
