"""Jobs that are no longer wanted, or that cannot be done right, are refused with a reason."""

from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from prfaas.contracts.kv import KVTransfer
from prfaas.contracts.to_prefill import CancelPrefill, PrefillJob
from prfaas.contracts.wire import pack_tokens
from prfaas.sealing.config import SealingConfig
from prfaas.sealing.job_seal import JobSeals
from prfaas_prefill_worker.events import CancelHeard, JobTaken, PrefillEnded, Refuse, Run
from prfaas_prefill_worker.service_core import REMEMBERED_CANCELS, PrefillCore


def make_job(transfer_id: str = "t", attempt: int = 1, tokens: int = 3, **changes: Any) -> PrefillJob:
    transfer = KVTransfer(
        transfer_id=transfer_id, attempt=attempt, bucket="b", nuid="n", prefill_tokens=tokens, fingerprint=changes.pop("fp", "f")
    )
    packed = changes.pop("packed", pack_tokens(range(tokens)))
    return PrefillJob(
        request_id="r",
        model=changes.pop("model", "m"),
        transfer=transfer,
        token_ids=packed,
        reply_to="d",
        decode_site="home",
        timeout_s=10.0,
    )


def make_core() -> PrefillCore:
    return PrefillCore("m", "f", max_context_tokens=100, open_job=JobSeals(SealingConfig()).open)


def verdict(core: PrefillCore, job: PrefillJob, age_s: float = 1.0, deliveries: int = 1) -> Run | Refuse:
    (out,) = core.handle(JobTaken(job, age_s, deliveries))
    core.validate()
    return out


def test_a_good_job_runs_with_the_time_that_is_left() -> None:
    job = make_job()
    assert verdict(make_core(), job) == Run(job, [0, 1, 2], 9.0)


@pytest.mark.parametrize(
    ("job", "age_s", "deliveries", "code"),
    [
        (make_job(), 10.0, 1, "expired"),
        (make_job(), 1.0, 2, "worker_lost"),
        (make_job(model="other"), 1.0, 1, "wrong_model"),
        (make_job(fp="other"), 1.0, 1, "fingerprint"),
        (make_job(packed=b"123"), 1.0, 1, "bad_job"),
        (make_job(tokens=101), 1.0, 1, "bad_job"),
        (make_job(packed=pack_tokens([1])), 1.0, 1, "bad_job"),
    ],
)
def test_a_bad_job_is_refused(job: PrefillJob, age_s: float, deliveries: int, code: str) -> None:
    refused = verdict(make_core(), job, age_s, deliveries)
    assert isinstance(refused, Refuse) and refused.code == code and refused.message and not refused.silent


def test_a_job_for_a_decode_site_that_is_not_served_is_refused() -> None:
    """Each decode site costs a link and a task for good: names that are made up must not."""
    core = PrefillCore("m", "f", max_context_tokens=100, open_job=JobSeals(SealingConfig()).open, serves=["away"])
    refused = verdict(core, make_job())
    assert isinstance(refused, Refuse) and refused.code == "bad_job"
    assert refused.message == "this worker serves away, the job is for decode site 'home'"


@given(st.integers(1, 5), st.integers(1, 5))
def test_a_cancel_takes_its_attempt_and_all_before_it(cancelled: int, attempt: int) -> None:
    core = make_core()
    core.handle(CancelHeard("home", CancelPrefill(transfer_id="t", attempt=cancelled)))
    core.handle(CancelHeard("home", CancelPrefill(transfer_id="t", attempt=1)))
    out = verdict(core, make_job(attempt=attempt))
    assert isinstance(out, Refuse) == (attempt <= cancelled)
    assert not core.cancelled(make_job("another"))


def test_cancels_are_remembered_boundedly() -> None:
    core = make_core()
    for number in range(REMEMBERED_CANCELS + 10):
        core.handle(CancelHeard("home", CancelPrefill(transfer_id=str(number), attempt=1)))
    core.validate()
    assert core.cancelled(make_job(str(REMEMBERED_CANCELS + 9))) and not core.cancelled(make_job("0"))


@pytest.mark.parametrize(("from_token", "runs"), [(0, True), (2, True), (3, False), (-1, False)])
def test_a_transfer_begins_within_the_prompt(from_token: int, runs: bool) -> None:
    job = make_job()
    job = msgspec.structs.replace(job, transfer=msgspec.structs.replace(job.transfer, from_token=from_token))
    out = verdict(make_core(), job)
    assert isinstance(out, Run) if runs else isinstance(out, Refuse) and out.code == "bad_job"


def test_only_computed_tokens_take_time() -> None:
    core = make_core()
    core.handle(PrefillEnded(0, 0.5))
    assert core.observed.points() == ()
    core.handle(PrefillEnded(512, 0.5))
    assert core.observed.points() == ((512, 0.5),)
