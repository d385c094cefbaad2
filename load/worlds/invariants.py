"""Invariants of every world: one end per request, right tokens, nothing kept, and no error that its faults do not explain."""

from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

from load.worlds.client import Client
from load.worlds.decode_worker import DecodeWorker
from load.worlds.dispatcher import Dispatcher
from load.worlds.gateway import Gateway
from load.worlds.prefill_worker import PrefillWorker
from load.worlds.scheduler import Scheduler
from load.worlds.surroundings import Surroundings
from prfaas.contracts.codes import FailureCode
from prfaas_decode_worker.prefill_deaths import MAX_DEATHS
from prfaas_decode_worker.retries import MAX_ENGINE_FAILURES, MAX_LOCAL_ATTEMPTS, MAX_UNCOUNTED_FAILURES

MOST_PREFILLS: Final = 1 + MAX_LOCAL_ATTEMPTS
"""Attempts of one placement: a remote one, and those at home."""
MOST_ATTEMPTS: Final = MOST_PREFILLS + MAX_UNCOUNTED_FAILURES
"""The same, with those that ended with the site's server or with their worker."""
MOST_ADDED_S: Final = 3.0
"""Longest time that a single fault adds to a first token beside its own length."""
UNCOUNTED: Final = (FailureCode.BROKER, FailureCode.WORKER_LOST)
GOOD: Final = ("stop", "length")
NEVER: Final = frozenset(
    {
        FailureCode.INTERNAL, FailureCode.INTERNAL_ERROR, FailureCode.TEXT, FailureCode.BAD_MESSAGE, FailureCode.FINGERPRINT,
        FailureCode.LOSSY, FailureCode.WRONG_MODEL, FailureCode.BAD_REQUEST, FailureCode.CACHE_TOO_SMALL,
        FailureCode.CONTEXT_LENGTH_EXCEEDED, FailureCode.DUPLICATE,
    }
)  # fmt: skip
"""Codes that no fault of a world explains."""
NEEDS: Final[dict[str, frozenset[str]]] = {
    FailureCode.ENGINE: frozenset({"broken", "bad_step"}),
    FailureCode.CORRUPT: frozenset({"flip_delivery", "flip_stored"}),
    FailureCode.BAD_JOB: frozenset({"forge"}),
    FailureCode.PREFILL_CRASH: frozenset({"deadly", "kill", "unplug"}),
}
"""Faults of which one must be there for a code."""
HIDES_NEWS: Final = frozenset(
    {"cut", "half_open", "stall", "slow", "unplug", "drop", "stop", "server_restart", "flip_stored", "flip_delivery"}
)
"""Faults that may keep a decode worker from hearing in time that a prefill has begun, or how it ended."""
COSTLY: Final = frozenset({"server_restart", "bucket_full", "drop"})
"""Single faults that may cost a request: the broker itself, and messages that are lost one by one."""


def judged(world: Surroundings, client: Client, undisturbed_s: Callable[[str], float]) -> list[str]:
    """Returns what is wrong with one client's answer.

    `undisturbed_s` returns the time to a request's first token in the same world without its faults."""
    name = client.plan.name
    wrong = client.wrong(world.plan.liar.partition("-")[0])
    if wrong is not None:
        return [f"{name}: {wrong}"]
    if not client.ends:
        return [f"{name}: it never ended"]
    end = client.ends[0]
    if not _explained(world, end):
        return [f"{name}: it ended as {end}, which nothing here explains"]
    if client.attempts > MOST_ATTEMPTS:
        return [f"{name}: it took {client.attempts} attempts"]
    poison = client.plan.poison
    if poison in ("deadly", "broken") and end in GOOD and client.prefill_site:
        return [f"{name}: it is {poison}, and ended as {end}"]
    return _single_fault(world, client, undisturbed_s)


def judged_attempts(world: Surroundings) -> list[str]:
    """Returns what is wrong with how attempts failed, and with what they cost."""
    wrong = [f"attempt {name} failed as {code}" for name, code in world.failed_attempts if not _explained(world, code)]
    for leg, workers in world.deaths.items():
        if len(workers) > _most(world, MAX_DEATHS, leg):
            wrong.append(f"{leg}: {len(workers)} workers died of one prompt")
    for leg, failures in Counter(world.broken).items():
        if failures > _most(world, MAX_ENGINE_FAILURES, leg):
            wrong.append(f"{leg}: an engine had to fail {failures} times")
    return wrong


def _explained(world: Surroundings, code: str) -> bool:
    """Returns whether the world's faults can end a request or an attempt with this code."""
    return code not in NEVER and (code not in NEEDS or not NEEDS[code].isdisjoint(world.plan.fault_kinds))


def _most(world: Surroundings, known: int, leg: str) -> int:
    """Returns how often one prompt may harm, `known` times where each is heard of.

    News may be lost, and the harm pass for a timeout or a damaged frame: then each attempt may do it. An attempt that ended with
    the site's server or with its worker is none of the placement's, and has done it all the same. A job that was dispatched to a
    worker just before that was killed goes to the next process of its name, which may not have heard that it is cancelled."""
    if not world.plan.fault_kinds & HIDES_NEWS:
        return known + sum(fault.kind == "kill" and "-p" in fault.target for fault in world.plan.faults)
    uncounted = sum(name.rpartition(".")[0] == leg and code in UNCOUNTED for name, code in world.failed_attempts)
    return MOST_PREFILLS + min(uncounted, MAX_UNCOUNTED_FAILURES)


def _single_fault(world: Surroundings, client: Client, undisturbed_s: Callable[[str], float]) -> list[str]:
    """Judges what one fault cost a request, where it may cost no more than time."""
    if not _must_be_served(world, client):
        return []
    name, end, faults = client.plan.name, client.ends[0], world.plan.faults
    only = f"{faults[0].kind} of {faults[0].target} for {faults[0].for_s:.1f} s" if faults else "nothing"
    if end not in GOOD:
        return [f"{name}: it ended as {end} though only {only} went wrong"]
    most_s = MOST_ADDED_S + (faults[0].for_s if faults else 0.0)
    if faults and client.first_token_s > most_s and (added_s := client.first_token_s - undisturbed_s(name)) > most_s:
        return [f"{name}: its first token came {added_s:.1f} s later though only {only} went wrong"]
    if faults and faults[0].kind == "flip_delivery" and client.attempts > 1:
        return [f"{name}: a frame that was delivered wrong cost an attempt, and is only to be read again"]
    return []


def _must_be_served(world: Surroundings, client: Client) -> bool:
    if world.plan.profile == "storm" or client.plan.poison or client.plan.leaves_after_s is not None:
        return False
    if world.plan.profile == "calm":
        return True
    (fault,) = world.plan.faults
    return fault.kind not in COSTLY and not (fault.target == "gateway" and fault.kind in ("kill", "unplug"))


def leftovers(world: Surroundings) -> list[str]:
    """Returns what is still kept somewhere; empty once all of every request is gone."""
    found = [f"client {client.plan.name}" for client in world.clients if not client.ends]
    for process in world.network.processes.values():
        match process:
            case Gateway():
                found += [f"leg {each} at {process.name}" for each in process.legs]
            case DecodeWorker():
                found += _kept_by_decode_worker(process)
            case PrefillWorker():
                found += _kept_by_prefill_worker(process)
            case Dispatcher():
                found += [f"held job {each} at {process.name}" for each in process.held]
                found += [f"{process.repeater.unheard} unheard failures at {process.name}"] * bool(process.repeater.unheard)
            case Scheduler():
                process.advance()
                found += _kept_by_scheduler(process)
    for jobs in world.jobs.values():
        found += [
            f"job {stored.job.transfer.object_name} at {jobs.site}" for stored in (*jobs.queued.jobs, *jobs.dispatched.jobs)
        ]
    found += [f"object {nuid}" for nuid in world.store.look().frames]
    found += [f"consumer of {consumer.nuid}" for consumer in world.store.consumers]
    return found


def _kept_by_decode_worker(process: DecodeWorker) -> list[str]:
    parts: dict[str, Collection[str]] = {
        "request": process.core.requests,
        "attempt": process.attempts.running,
        "sequence": process.attempts.sequences,
        "sampler": process.samplers,
        "receiver": process.attempts.receivers,
        "audit": process.attempts.audits.held,
    }
    return [f"{what} {each} at {process.name}" for what, kept in parts.items() for each in kept]


def _kept_by_prefill_worker(process: PrefillWorker) -> list[str]:
    found = [f"sender {sender.transfer.object_name} at {process.name}" for sender in process.senders]
    process.link.core.validate()
    if process.repeater.unheard:
        found.append(f"{process.repeater.unheard} unheard failures at {process.name}")
    if process.working is not None:
        found.append(f"prefill of {process.working} at {process.name}")
    return found + [f"turn {key} at {process.name}" for key in process.link.users]


def _kept_by_scheduler(process: Scheduler) -> list[str]:
    fleet = process.core.fleet
    found = [f"placement {each} at {process.name}" for each in fleet.placed]
    return found + [f"backlog of {name}" for name, site in fleet.sites.items() if len(site.backlog)]
