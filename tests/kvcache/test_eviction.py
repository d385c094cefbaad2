"""The order of eviction: recency, uses and worth, with nothing on offer that is in use, in logarithmic time."""

import time

import pytest

from prfaas.kvcache.eviction import EvictionOrder, Unit

SIZE_BYTES = 10


def stored(order: EvictionOrder[Unit], seconds: float = 1.0, uses: int = 1, size_bytes: int = SIZE_BYTES) -> Unit:
    unit = Unit(size_bytes, seconds)
    order.took_in(unit)
    for _ in range(uses):
        order.use(unit)
    order.offer(unit)
    return unit


def taken(order: EvictionOrder[Unit]) -> list[Unit]:
    units = []
    while (unit := order.take()) is not None:
        units.append(unit)
    return units


def test_equals_leave_in_the_order_of_their_last_use() -> None:
    order: EvictionOrder[Unit] = EvictionOrder(100)
    first, second, third = (stored(order) for _ in range(3))
    order.withdraw(second)
    assert len(order) == 2
    order.offer(second)  # not used meanwhile
    assert taken(order) == [first, second, third]
    assert (len(order), order.take()) == (0, None)


def test_uses_and_worth_put_eviction_off_but_not_for_ever() -> None:
    order: EvictionOrder[Unit] = EvictionOrder(10 * SIZE_BYTES)
    plain, often, dear = stored(order), stored(order, uses=9), stored(order, seconds=4.0)
    idle = stored(order, seconds=0.0)
    assert [order.take(), order.take()] == [idle, plain]
    for _ in range(50):
        stored(order)
        assert len(order) == 3
        order.take()
    assert often.ticket == dear.ticket == 0


def test_a_use_of_what_is_on_offer_is_a_mistake() -> None:
    order: EvictionOrder[Unit] = EvictionOrder(100)
    with pytest.raises(AssertionError, match="evicted at the same time"):
        order.use(stored(order))


def test_what_is_offered_and_withdrawn_again_and_again_takes_no_memory() -> None:
    order: EvictionOrder[Unit] = EvictionOrder(100)
    units = [stored(order) for _ in range(100)]
    for _ in range(200):
        for unit in units:
            order.withdraw(unit)
            order.use(unit)
            order.offer(unit)
    assert len(order._heap) <= 2 * len(units) + 1025
    assert sorted(map(id, taken(order))) == sorted(map(id, units))


def operation_s(units: int, operations: int = 2000) -> float:
    """CPU time of a store with an eviction among a number of units, of which every second one is in use."""
    order: EvictionOrder[Unit] = EvictionOrder(units * SIZE_BYTES)
    for index in range(units):
        unit = stored(order, seconds=1.0 + index % 7)
        if index % 2:
            order.withdraw(unit)
    started_s = time.thread_time()
    for _ in range(operations):
        stored(order)
        order.take()
    return (time.thread_time() - started_s) / operations


def test_an_operation_among_many_units_takes_about_as_long_as_among_few() -> None:
    """A scan would take a hundred times as long."""
    few, many = (min(operation_s(units) for _ in range(3)) for units in (1000, 100_000))
    assert many < 12 * few
