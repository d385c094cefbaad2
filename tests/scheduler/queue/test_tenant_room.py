"""A tenant that has had far less than its share finds room in a queue that another fills."""

from prfaas_scheduler.queue.site_queue import SiteQueue
from prfaas_scheduler.queue.tenant_room import MAX_S, UP_S, TenantRoom
from tests.scheduler.queue.jobs import arrive, busy, dispatched, job, ready, refused


def test_seconds_to_leave_grow_with_refusals_of_the_protected_and_are_forgotten_with_arrivals() -> None:
    room = TenantRoom()
    room.missed(1.0, 5.0)
    assert room.leave_s(1.5) == 0.0, "who has its share is not protected"
    for _ in range(20):
        room.missed(0.1, 0.0)
    assert (room.leave_s(1.0), room.leave_s(0.99)) == (MAX_S, 0.0), "who is below its share leaves nothing"
    room.arrived(2.0)
    slowly_s = MAX_S - room.leave_s(1.0)
    room.arrived(0.1)
    assert 0 < slowly_s < MAX_S - slowly_s - room.leave_s(1.0), "a protected one that comes counts for more"
    for _ in range(10_000):
        room.arrived(2.0)
    assert room.leave_s(1.0) == 0.0
    room.missed(0.1, 0.0)
    room.missed(0.1, 2.5)
    assert room.leave_s(1.0) == UP_S + 2.5, "as much as was missing"


def kept_of(tenant_of_few: str, seconds: int = 600) -> tuple[list[bool], int]:
    """Returns whether each prompt of the few is accepted beside twice of what the worker does, and how many of the others are.

    A prompt of the few takes 6 s of the 10 s that it has; they ask for a sixth of the worker."""
    queue, free_at, few, many = SiteQueue(), 0.0, list[bool](), 0
    busy(queue)
    for step in range(2 * seconds):
        now_s, work = step / 2, [job(f"many {step}", 1.0, now_s=step / 2, tenant="many")]
        if step % 72 == 71:
            work.append(job(f"few {step}", 6.0, now_s=now_s, tenant=tenant_of_few))
        for each in work:
            accepted = each.job_id not in refused(arrive(queue, each))
            if each.work_s == 6.0:
                few.append(accepted)
            else:
                many += accepted
        if now_s >= free_at:
            for name in dispatched(ready(queue, "w0", now_s)):
                free_at = now_s + (6.0 if name.startswith("few") else 1.0)
        queue.validate()
    return few, many


def test_long_prompts_of_a_tenant_below_its_share_are_accepted_beside_one_that_floods() -> None:
    few, many = kept_of("few")
    assert sum(few) >= 0.5 * len(few), "each refusal makes the others leave more time"
    assert many > 500, "and they still have most of the worker"
    of_one_tenant, _ = kept_of("many")
    assert sum(of_one_tenant) < 0.1 * len(of_one_tenant)
