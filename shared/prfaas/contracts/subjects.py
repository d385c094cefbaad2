"""Subjects, streams and buckets. All carry the receiving site's name, so no two domains answer for the same one.

What only one sender may say carries that sender's name too, and servers give the permission to publish it to that sender alone.
"""

BETWEEN_SITES = "--"
"""Separates two sites in the name of a stream or bucket, which takes no dots; no site's name contains it."""


def replies(asking_site: str, answering_site: str, name: str) -> str:
    """Prefix of the reply subjects of one process, for answers that come from `answering_site`."""
    return f"reply.{asking_site}.{answering_site}.{name}"


def answering_site(subject: str) -> str:
    """Site that answers a request on this subject: its second token, or the site of the bucket that the second token names.

    Subjects without a site, such as JetStream's own API, give a token that stands for the own server."""
    root, _, rest = subject.partition(".")
    token = rest.partition(".")[0] or "_"
    return kv_bucket_site(token) if root == "$O" else token


def place(site: str) -> str:
    """Request/reply: gateway -> scheduler, PlaceRequest -> Placement | Refusal."""
    return f"prfaas.{site}.scheduler.place"


def scheduler_state(site: str) -> str:
    """Request/reply: gateway that somebody watches -> leading scheduler, empty -> SchedulerState."""
    return f"prfaas.{site}.scheduler.state"


def scheduler_alive(site: str, incarnation: str) -> str:
    """Request/reply among the schedulers of a site, empty -> empty. No responder once that process has no connection."""
    return f"prfaas.{site}.scheduler.alive.{incarnation}"


def attempts(site: str) -> str:
    """Decode worker -> scheduler, AttemptEnded | KVDisagreed."""
    return f"prfaas.{site}.scheduler.attempts"


def blocks(site: str, worker_site: str, role: str, worker: str) -> str:
    """The named worker -> scheduler of `site`, BlocksChanged."""
    return f"prfaas.{site}.scheduler.blocks.{worker_site}.{role}.{worker}"


def all_blocks(site: str) -> str:
    """All workers -> scheduler of `site`, BlocksChanged."""
    return blocks(site, "*", "*", "*")


def queue_state(site: str, prefill_site: str) -> str:
    """The dispatcher of `prefill_site` -> scheduler of `site`, QueueAnnounced."""
    return f"prfaas.{site}.scheduler.queues.{prefill_site}"


def held_blocks(site: str, role: str, worker: str) -> str:
    """Request/reply: scheduler -> worker, empty -> BlocksHeld."""
    return f"prfaas.{site}.{role}.{worker}.blocks"


def change_role(site: str, role: str, worker: str) -> str:
    """Request/reply: scheduler -> worker, ChangeRole -> RoleChanging | RoleKept."""
    return f"prfaas.{site}.{role}.{worker}.role"


def generate(site: str, worker: str) -> str:
    """Request/reply: gateway -> decode worker, Generate -> GenerateAccepted | GenerateRefused."""
    return f"prfaas.{site}.decode.{worker}.generate"


def decode_alive(site: str, worker: str) -> str:
    """Request/reply: gateway -> the decode worker of its requests, AskRunning -> Running. No responder once it is gone."""
    return f"prfaas.{site}.decode.{worker}.alive"


def cancel_generate(site: str, worker: str) -> str:
    """Gateway -> decode worker, CancelGenerate."""
    return f"prfaas.{site}.decode.{worker}.cancel"


def prefill_progress(site: str, worker: str) -> str:
    """Prefix of what a decode worker hears about its prefills; `progress_from` completes it."""
    return f"prfaas.{site}.decode.{worker}.prefill"


def progress_from(reply_to: str, prefill_site: str, worker: str) -> str:
    """The named prefill worker -> decode worker: PrefillStarted | PrefillDone | PrefillFailed."""
    return f"{reply_to}.{prefill_site}.{worker}"


def cancel_prefill(site: str, decode_site: str) -> str:
    """Decode workers of `decode_site` -> all prefill workers of `site`, CancelPrefill."""
    return f"prfaas.{site}.prefill.cancel.{decode_site}"


def send_prefix(site: str, worker: str, asking_site: str) -> str:
    """Request/reply: prefill workers of `asking_site` -> the named prefill worker, SendPrefix -> PrefixComing | PrefixRefused."""
    return f"prfaas.{site}.prefill.{worker}.send.{asking_site}"


def events(site: str, gateway: str) -> str:
    """Prefix of the events of all requests of one gateway; `events_from` completes it."""
    return f"prfaas.{site}.gateway.{gateway}.events"


def events_from(reply_to: str, worker: str) -> str:
    """The named decode worker -> gateway: Started | Tokens | Finished | Failed."""
    return f"{reply_to}.{worker}"


def gateway_alive(site: str, gateway: str, incarnation: str) -> str:
    """Request/reply: decode worker -> the gateway of its requests, empty -> empty. No responder once that process is gone, also
    when another one has its name."""
    return f"prfaas.{site}.gateway.{gateway}.alive.{incarnation}"


def jobs_stream(site: str, decode_site: str) -> str:
    """The work-queue stream of `site` for the prefill jobs of one pd site, which alone can fill it."""
    return f"JOBS_{site}{BETWEEN_SITES}{decode_site}"


def jobs(site: str, decode_site: str, model: str) -> str:
    """Jobs of `decode_site` for any worker of the model. A model's name may hold dots, a subject's token may not."""
    return f"jobs.{site}.{decode_site}.prefill.{model.replace('.', '_')}"


def dispatched_stream(site: str) -> str:
    """The work-queue stream of `site` for prefill jobs that have their worker."""
    return f"DISPATCHED_{site}"


def dispatched_jobs(site: str, worker: str) -> str:
    """Jobs for one worker: put there by the site's dispatcher, or by the worker itself while no dispatcher answers."""
    return f"dispatched.{site}.{worker}"


def readiness(site: str, worker: str) -> str:
    """Request/reply: the named prefill worker -> dispatcher of its own site, PrefillReadiness -> DispatcherHere."""
    return f"prfaas.{site}.scheduler.ready.{worker}"


def worker_alive(site: str, worker: str) -> str:
    """Request/reply: decode worker -> whatever process is the named prefill worker now, empty -> empty."""
    return f"prfaas.{site}.prefill.{worker}.alive"


def prefill_alive(site: str, worker: str, incarnation: str) -> str:
    """Request/reply: decode worker -> the process that has its job, empty -> empty. No responder once that process has no
    connection, also when another one has its name."""
    return f"{worker_alive(site, worker)}.{incarnation}"


def workers_bucket(site: str) -> str:
    """KV bucket at a `pd` site: heartbeats of every worker that this site may place work on."""
    return f"workers-{site}"


def links_bucket(site: str) -> str:
    """KV bucket at a `pd` site: estimates of the links that end there."""
    return f"links-{site}"


def leader_bucket(site: str) -> str:
    """KV bucket at a `pd` site: which of its schedulers leads."""
    return f"leader-{site}"


def stored_entry(bucket: str, key: str) -> str:
    """Subject of one key of a bucket in its stream, for processes of the bucket's own site."""
    return f"$KV.{bucket}.{key}"


def entry(bucket: str, key: str) -> str:
    """Put of one key of a bucket. `$KV` subjects do not pass between two JetStream domains; these do."""
    kind, _, site = bucket.partition("-")
    return f"prfaas.{site}.{kind}.{key}"


def probe_echo(site: str) -> str:
    """Request/reply within the control account: a probe of another site measures RTT here."""
    return f"prfaas.{site}.probe.echo"


def probe_train(site: str, source: str) -> str:
    """Request/reply within the bulk account: the probe of `source` measures goodput here, trains of TrainPart -> TrainReport."""
    return f"prfaas.{site}.probe.train.{source}"


def probe_transfers(site: str) -> str:
    """Prefill workers -> the probe of their own site, TransferMeasured."""
    return f"prfaas.{site}.probe.transfers"


def probe_egress(site: str) -> str:
    """Request/reply: prefill worker -> the probe of its own site, EgressAsked -> EgressLease."""
    return f"prfaas.{site}.probe.egress"


def kv_bucket(site: str, prefill_site: str) -> str:
    """Object-store bucket (bulk account) for KV that `prefill_site` makes for decode workers of `site`.

    Each prefill site has a bucket of its own there, and can fill no other."""
    return f"kv-{site}" if prefill_site == site else f"kv-{site}{BETWEEN_SITES}{prefill_site}"


def pull_bucket(site: str, holder_site: str) -> str:
    """Object-store bucket (bulk account) for cached prefixes that prefill workers of `site` pull from those of `holder_site`."""
    return f"pulls-{site}" if holder_site == site else f"pulls-{site}{BETWEEN_SITES}{holder_site}"


def kv_bucket_site(bucket: str) -> str:
    """Site whose workers read the bucket, which is one for KV or for pulls."""
    return bucket.partition("-")[2].partition(BETWEEN_SITES)[0]


def kv_stored(bucket: str, nuid: str) -> str:
    """Request/reply in the bulk account: KV sender -> KV receiver of that object, empty -> KVStored.

    The receiver asks its own server, so that no JetStream API has to cross a link."""
    return f"prfaas.{kv_bucket_site(bucket)}.stored.{bucket}.{nuid}"


def kv_direct(bucket: str, inbox: str, nuid: str) -> str:
    """Request/reply in the bulk account, within a site: KV sender -> KV receiver of that object, frames -> KVTaken.

    An empty message asks what has come of it."""
    return f"prfaas.{kv_bucket_site(bucket)}.direct.{bucket}.{inbox}.{nuid}"
