"""Subjects and names in the control account. All carry the site's name, so no two domains answer for the same one."""


def place(site: str) -> str:
    """Request/reply: gateway -> scheduler, PlaceRequest -> Placement | Refusal."""
    return f"prfaas.{site}.scheduler.place"


def attempts(site: str) -> str:
    """Decode worker -> scheduler, AttemptEnded."""
    return f"prfaas.{site}.scheduler.attempts"


def blocks(site: str) -> str:
    """Workers -> scheduler, BlocksChanged."""
    return f"prfaas.{site}.scheduler.blocks"


def held_blocks(site: str, role: str, worker: str) -> str:
    """Request/reply: scheduler -> worker, empty -> BlocksHeld."""
    return f"prfaas.{site}.{role}.{worker}.blocks"


def change_role(site: str, role: str, worker: str) -> str:
    """Request/reply: scheduler -> worker, ChangeRole -> RoleChanging | RoleKept."""
    return f"prfaas.{site}.{role}.{worker}.role"


def generate(site: str, worker: str) -> str:
    """Request/reply: gateway -> decode worker, Generate -> GenerateAccepted | GenerateRefused."""
    return f"prfaas.{site}.decode.{worker}.generate"


def cancel_generate(site: str, worker: str) -> str:
    """Gateway -> decode worker, CancelGenerate."""
    return f"prfaas.{site}.decode.{worker}.cancel"


def prefill_progress(site: str, worker: str) -> str:
    """Prefill worker -> decode worker: PrefillStarted | PrefillDone | PrefillFailed."""
    return f"prfaas.{site}.decode.{worker}.prefill"


def cancel_prefill(site: str) -> str:
    """Decode worker -> all prefill workers of a site, CancelPrefill."""
    return f"prfaas.{site}.prefill.cancel"


def events(site: str, gateway: str) -> str:
    """Decode worker -> gateway: Started | Tokens | Finished | Failed, all requests of that gateway."""
    return f"prfaas.{site}.gateway.{gateway}.events"


def jobs_stream(site: str) -> str:
    """The site's work-queue stream of prefill jobs."""
    return f"JOBS_{site}"


def jobs(site: str, model: str) -> str:
    """Jobs for any free worker, one subject per model. A model's name may hold dots, a subject's token may not."""
    return f"jobs.{site}.prefill.{model.replace('.', '_')}"


def deferred_jobs(site: str, model: str) -> str:
    """Deferred jobs, one subject per model: taken when no other job waits."""
    return f"jobs.{site}.deferred.{model.replace('.', '_')}"


def worker_jobs(site: str, worker: str) -> str:
    """Jobs bound to one worker, whose cache holds the prompt's prefix."""
    return f"jobs.{site}.worker.{worker}"


def worker_alive(site: str, worker: str) -> str:
    """Request/reply: decode worker -> the prefill worker that has its job, empty -> empty. No responder once it is gone."""
    return f"prfaas.{site}.prefill.{worker}.alive"


def workers_bucket(site: str) -> str:
    """KV bucket at a `pd` site: heartbeats of every worker that this site may place work on."""
    return f"workers-{site}"


def links_bucket(site: str) -> str:
    """KV bucket at a `pd` site: estimates of the links that end there."""
    return f"links-{site}"


def probe_echo(site: str) -> str:
    """Request/reply: a probe of another site measures RTT here, Ping -> Pong."""
    return f"prfaas.{site}.probe.echo"


def probe_train(site: str) -> str:
    """Request/reply in the bulk account: a probe of another site measures goodput here, trains of TrainPart -> TrainReport."""
    return f"prfaas.{site}.probe.train"


def probe_transfers(site: str) -> str:
    """Prefill workers -> the probe of their own site, TransferMeasured."""
    return f"prfaas.{site}.probe.transfers"


def probe_egress(site: str) -> str:
    """Request/reply: prefill worker -> the probe of its own site, EgressAsked -> EgressLease."""
    return f"prfaas.{site}.probe.egress"


def kv_bucket(site: str) -> str:
    """Object-store bucket (bulk account) into which KV for the site's decode workers is put."""
    return f"kv-{site}"


def kv_stored(site: str, nuid: str) -> str:
    """Request/reply in the bulk account: KV sender -> KV receiver of that object, empty -> KVStored. The receiver asks its own
    server, so that no JetStream API has to cross a link."""
    return f"prfaas.{site}.kv.{nuid}.stored"
