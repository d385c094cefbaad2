"""Permissions as allow-lists: for the users of a site's services, and for the subjects that cross between two sites.

A service user is one process, so a subject that carries the process's name is that process's alone. What is not listed here the
server refuses.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from prfaas.bus.bulk.bucket import stream_name
from prfaas.bus.job_streams import worker_consumer
from prfaas.contracts import subjects
from prfaas.contracts.terms import Role as WorkerRole
from prfaas.site.sites import Description, Role, Service, Site, SiteKind

CONTROL, BULK = "ctl", "bulk"
_Granting = Callable[[Description, str, str], "dict[str, Permissions]"]
PREFILL, DECODE = WorkerRole.PREFILL.value, WorkerRole.DECODE.value


class Permissions(NamedTuple):
    """Subjects that one user may publish to and subscribe to."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()

    def __add__(self, other: object) -> "Permissions":
        assert isinstance(other, Permissions)
        return Permissions(_merged(self.publish, other.publish), _merged(self.subscribe, other.subscribe))


class Crossing(NamedTuple):
    """Subjects on which messages may cross from one site to another, in one account."""

    requests: tuple[str, ...] = ()
    """Subjects of the receiving site's streams. The server answers, and its answer can reach the sender's reply subject only: a
    reply subject that names something in the receiving site is rewritten on the way."""
    messages: tuple[str, ...] = ()
    """Subjects that processes of the receiving site subscribe to, and frames of KV. They pass as they are."""


def service_permissions(description: Description, service: Service) -> dict[str, Permissions]:
    """Returns the permissions of one service's users, by account. A worker that may change its role has those of both roles."""
    roles = _ROLES[service.role]
    if service.config.get("movable"):
        roles = (_prefill_worker, _decode_worker)
    granted = {CONTROL: Permissions(), BULK: Permissions()}
    for role in roles:
        for account, permissions in role(description, service.site, service.name).items():
            granted[account] += permissions
    own = f"{subjects.replies(service.site, '*', service.name)}.>"
    return {
        account: permissions + Permissions(subscribe=(own,))
        for account, permissions in granted.items()
        if permissions != Permissions()
    }


def crossing(description: Description, sender: Site, receiver: Site) -> dict[str, Crossing]:
    """Returns the subjects that cross from `sender` to `receiver`, by account. KV flows to pd sites, jobs come from pd sites."""
    requests: list[str] = []
    messages = [_replies(receiver.name, sender.name), subjects.probe_echo(receiver.name)]
    bulk = [_replies(receiver.name, sender.name)]
    if receiver.kind is SiteKind.PD:
        workers = _prefill_workers(description, sender.name)
        requests += [_heartbeat(receiver.name, sender.name, PREFILL, worker) for worker in workers]
        requests.append(_estimate(receiver.name, sender.name))
        messages += [subjects.blocks(receiver.name, sender.name, PREFILL, worker) for worker in workers]
        tellers = [*workers, *_schedulers(description, sender.name)]
        messages += [_progress(receiver.name, sender.name, teller) for teller in tellers]
        messages += [subjects.queue_state(receiver.name, sender.name)] if len(tellers) > len(workers) else []
        bulk += _frames(receiver.name, sender.name)
        bulk.append(subjects.probe_train(receiver.name, sender.name))
    if sender.name in receiver.pulls_from:
        bulk += _stored_at(subjects.pull_bucket(receiver.name, sender.name))
    if receiver.name in sender.pulls_from:
        messages.append(subjects.send_prefix(receiver.name, "*", sender.name))
    if sender.kind is SiteKind.PD:
        requests.append(subjects.jobs(receiver.name, sender.name, "*"))
        messages += [subjects.worker_alive(receiver.name, "*"), subjects.prefill_alive(receiver.name, "*", "*")]
        messages.append(subjects.held_blocks(receiver.name, PREFILL, "*"))
        messages.append(subjects.cancel_prefill(receiver.name, sender.name))
    return {CONTROL: Crossing(tuple(requests), tuple(messages)), BULK: Crossing(messages=tuple(bulk))}


# ---- roles: each takes the description, the site's and the process's name


def _gateway(_description: Description, site: str, name: str) -> dict[str, Permissions]:
    publish = (
        subjects.place(site),
        subjects.scheduler_state(site),
        subjects.generate(site, "*"),
        subjects.cancel_generate(site, "*"),
        subjects.decode_alive(site, "*"),
        *_watched_bucket(subjects.workers_bucket(site)),
        _replies(site, site),
    )
    events = subjects.events_from(subjects.events(site, name), "*")
    beats = subjects.entry(subjects.workers_bucket(site), ">")
    return {CONTROL: Permissions(publish, (events, beats, subjects.gateway_alive(site, name, "*")))}


def _scheduler(description: Description, site: str, name: str) -> dict[str, Permissions]:
    dispatching = _dispatcher(description, site, name)
    if description.site(site).kind is SiteKind.PRFAAS:
        return {CONTROL: dispatching}
    return {CONTROL: dispatching + _placing(description, site)}


def _dispatcher(description: Description, site: str, name: str) -> Permissions:
    served = description.served_sites(site)
    alive = subjects.scheduler_alive(site, "*")
    return Permissions(
        publish=(
            *_changed_entry(subjects.leader_bucket(site)),
            alive,
            *(subject for at in served for subject in _taken_queue(subjects.jobs_stream(site, at))),
            subjects.dispatched_jobs(site, "*"),
            subjects.worker_alive(site, "*"),
            *(_progress(at, site, name) for at in served),
            *(subjects.queue_state(at, site) for at in served),
            _replies(site, site),
        ),
        subscribe=(alive, subjects.readiness(site, "*"), *(subjects.cancel_prefill(site, at) for at in served)),
    )


def _placing(description: Description, site: str) -> Permissions:
    prefill_sites = _joined(description, site)
    buckets = (subjects.workers_bucket(site), subjects.links_bucket(site))
    publish = (
        *(subject for bucket in buckets for subject in _watched_bucket(bucket)),
        *(subjects.held_blocks(at, PREFILL, "*") for at in prefill_sites),
        subjects.held_blocks(site, DECODE, "*"),
        *(subjects.change_role(site, role, "*") for role in (PREFILL, DECODE)),
        _replies(site, site),
    )
    entries = (subjects.entry(bucket, ">") for bucket in buckets)
    asked = (subjects.place(site), subjects.scheduler_state(site))
    heard = (*asked, subjects.attempts(site), subjects.all_blocks(site), subjects.queue_state(site, "*"))
    return Permissions(publish, (*heard, *entries))


def _decode_worker(description: Description, site: str, name: str) -> dict[str, Permissions]:
    prefill_sites = _joined(description, site)
    control = Permissions(
        publish=(
            subjects.events_from(subjects.events(site, "*"), name),
            subjects.gateway_alive(site, "*", "*"),
            subjects.attempts(site),
            subjects.blocks(site, site, DECODE, name),
            _heartbeat(site, site, DECODE, name),
            *(subjects.jobs(at, site, "*") for at in prefill_sites),
            *(subjects.worker_alive(at, "*") for at in prefill_sites),
            *(subjects.prefill_alive(at, "*", "*") for at in prefill_sites),
            *(subjects.cancel_prefill(at, site) for at in prefill_sites),
            _replies(site, site),
        ),
        subscribe=(
            subjects.generate(site, name),
            subjects.cancel_generate(site, name),
            subjects.decode_alive(site, name),
            subjects.progress_from(subjects.prefill_progress(site, name), "*", "*"),
            *_asked_of_workers(site, DECODE, name),
        ),
    )
    buckets = [subjects.kv_bucket(site, at) for at in prefill_sites]
    bulk = Permissions(
        publish=(
            *(subject for bucket in buckets for subject in _kept_bucket(bucket)),
            *_moved_buckets(description, site, buckets),
            *(_replies(at, site) for at in prefill_sites),
        ),
        subscribe=(
            *(subjects.kv_stored(bucket, "*") for bucket in buckets),
            subjects.kv_direct(subjects.kv_bucket(site, site), "*", "*"),
        ),
    )
    return {CONTROL: control, BULK: bulk}


def _prefill_worker(description: Description, site: str, name: str) -> dict[str, Permissions]:
    served = description.served_sites(site)
    streams = [subjects.jobs_stream(site, at) for at in served]
    own = subjects.dispatched_stream(site)
    pulled, pulling = description.pulled_sites(site), description.pulling_sites(site)
    control = Permissions(
        publish=(
            *(subject for stream in streams for subject in _worked_queue(stream)),
            *_own_queue(own, worker_consumer(name), subjects.dispatched_jobs(site, name)),
            subjects.dispatched_jobs(site, name),
            subjects.readiness(site, name),
            *(_progress(at, site, name) for at in served),
            *(_heartbeat(at, site, PREFILL, name) for at in served),
            *(subjects.blocks(at, site, PREFILL, name) for at in served),
            subjects.probe_transfers(site),
            subjects.probe_egress(site),
            *(subjects.send_prefix(at, "*", site) for at in pulled),
            *(_replies(at, site) for at in _and_own(served, site)),
        ),
        subscribe=(
            *(f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.*" for stream in streams),
            f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{own}.{worker_consumer(name)}",
            *(subjects.cancel_prefill(site, at) for at in served),
            subjects.worker_alive(site, name),
            subjects.prefill_alive(site, name, "*"),
            *(subjects.send_prefix(site, name, at) for at in pulling),
            *_asked_of_workers(site, PREFILL, name),
        ),
    )
    own_buckets = [subjects.pull_bucket(site, at) for at in pulled]
    bulk = Permissions(
        publish=(
            *(subject for at in served for subject in _frames(at, site)),
            *(subjects.kv_direct(subjects.kv_bucket(site, site), "*", "*") for at in served if at == site),
            *(subject for at in pulling for subject in _stored_at(subjects.pull_bucket(at, site))),
            *(subject for bucket in own_buckets for subject in _kept_bucket(bucket)),
            *_moved_buckets(description, site, own_buckets),
            *(_replies(at, site) for at in pulled),
        ),
        subscribe=tuple(subjects.kv_stored(bucket, "*") for bucket in own_buckets),
    )
    return {CONTROL: control, BULK: bulk}


def _bandwidth_probe(description: Description, site: str, _name: str) -> dict[str, Permissions]:
    measured = [at for at in description.served_sites(site) if at != site]
    answers = tuple(_replies(at, site) for at in _joined(description, site))
    control = Permissions(
        publish=(
            *(subjects.probe_echo(at) for at in measured),
            *(_estimate(at, site) for at in measured),
            *answers,
        ),
        subscribe=(subjects.probe_echo(site), subjects.probe_transfers(site), subjects.probe_egress(site)),
    )
    trains = tuple(subjects.probe_train(at, site) for at in measured)
    return {CONTROL: control, BULK: Permissions((*trains, *answers), (subjects.probe_train(site, "*"),))}


_ROLES: dict[Role, tuple[_Granting, ...]] = {
    Role.GATEWAY: (_gateway,),
    Role.SCHEDULER: (_scheduler,),
    Role.PREFILL_WORKER: (_prefill_worker,),
    Role.DECODE_WORKER: (_decode_worker,),
    Role.BANDWIDTH_PROBE: (_bandwidth_probe,),
}


# ---- groups of subjects


def _replies(asking_site: str, answering_site: str) -> str:
    return f"{subjects.replies(asking_site, answering_site, '*')}.>"


def _heartbeat(site: str, worker_site: str, role: str, worker: str) -> str:
    return subjects.entry(subjects.workers_bucket(site), f"{worker_site}.{role}.{worker}")


def _estimate(site: str, source: str) -> str:
    return subjects.entry(subjects.links_bucket(site), f"{source}.{site}")


def _progress(site: str, prefill_site: str, worker: str) -> str:
    return subjects.progress_from(subjects.prefill_progress(site, "*"), prefill_site, worker)


def _frames(site: str, prefill_site: str) -> list[str]:
    return _stored_at(subjects.kv_bucket(site, prefill_site))


def _stored_at(bucket: str) -> list[str]:
    return [f"$O.{bucket}.C.*", f"$O.{bucket}.M.*", subjects.kv_stored(bucket, "*")]


def _asked_of_workers(site: str, role: str, worker: str) -> list[str]:
    return [subjects.held_blocks(site, role, worker), subjects.change_role(site, role, worker)]


def _watched_bucket(bucket: str) -> list[str]:
    stream = f"KV_{bucket}"
    # nats-py makes the consumer of a watched bucket without a name.
    made = [f"$JS.API.CONSUMER.CREATE.{stream}", f"$JS.API.CONSUMER.CREATE.{stream}.>"]
    return [*_made_stream(stream), *made, *(f"$JS.API.CONSUMER.{verb}.{stream}.*" for verb in ("INFO", "DELETE"))]


def _taken_queue(stream: str) -> list[str]:
    return [f"$JS.API.STREAM.INFO.{stream}", f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*", f"$JS.ACK.{stream}.>"]


def _changed_entry(bucket: str) -> list[str]:
    stream = f"KV_{bucket}"
    return [*_made_stream(stream), f"$JS.API.DIRECT.GET.{stream}.>", subjects.stored_entry(bucket, "*")]


def _worked_queue(stream: str) -> list[str]:
    consumers = [f"$JS.API.CONSUMER.{verb}.{stream}.*" for verb in ("INFO", "MSG.NEXT")]
    messages = [f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.STREAM.MSG.DELETE.{stream}", f"$JS.ACK.{stream}.>"]
    return [*_made_stream(stream), f"$JS.API.CONSUMER.CREATE.{stream}.>", *consumers, *messages]


def _own_queue(stream: str, consumer: str, subject: str) -> list[str]:
    """One consumer of a stream, of one subject: the server compares its filter with the subject of the request that makes it."""
    consumers = [f"$JS.API.CONSUMER.{verb}.{stream}.{consumer}" for verb in ("INFO", "MSG.NEXT")]
    messages = [f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.STREAM.MSG.DELETE.{stream}", f"$JS.ACK.{stream}.{consumer}.>"]
    return [*_made_stream(stream), f"$JS.API.CONSUMER.CREATE.{stream}.{consumer}.{subject}", *consumers, *messages]


def _kept_bucket(bucket: str) -> list[str]:
    stream = stream_name(bucket)
    consumers = [f"$JS.API.CONSUMER.CREATE.{stream}.>", f"$JS.API.CONSUMER.LIST.{stream}"]
    consumers += [f"$JS.API.CONSUMER.{verb}.{stream}.*" for verb in ("DELETE", "MSG.NEXT")]
    return [*_made_stream(stream), f"$JS.API.STREAM.PURGE.{stream}", f"$JS.API.DIRECT.GET.{stream}.>", *consumers]


def _moved_buckets(description: Description, site: str, buckets: Sequence[str]) -> list[str]:
    """Only in a cluster can another server take a bucket's place."""
    clustered = len(description.site(site).server_names) > 1
    return [f"$JS.API.STREAM.DELETE.{stream_name(bucket)}" for bucket in buckets] if clustered else []


def _made_stream(stream: str) -> list[str]:
    return [f"$JS.API.STREAM.{verb}.{stream}" for verb in ("CREATE", "UPDATE", "INFO")]


# ---- groups of sites and workers


def _joined(description: Description, site: str) -> list[str]:
    return [site, *(neighbour.name for neighbour in description.neighbours(site))]


def _and_own(sites: Sequence[str], site: str) -> list[str]:
    return [site, *(each for each in sites if each != site)]


def _prefill_workers(description: Description, site: str) -> list[str]:
    """Names of a site's prefill workers; any name where the description has no services of the site."""
    if not any(service.site == site for service in description.services):
        return ["*"]
    return [
        service.name
        for service in description.services
        if service.site == site and (service.role is Role.PREFILL_WORKER or service.config.get("movable"))
    ]


def _schedulers(description: Description, site: str) -> list[str]:
    """Names of a site's schedulers, whose dispatcher tells what becomes of a job; any name likewise."""
    if not any(service.site == site for service in description.services):
        return []
    return [service.name for service in description.services if service.site == site and service.role is Role.SCHEDULER]


def _merged(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))
