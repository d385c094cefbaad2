"""Simulated time: timers, coroutines that wait for them, and processes that can be killed, stopped and woken."""

from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable
from heapq import heappop, heappush
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class CancelledError(BaseException):
    """Raised inside a coroutine whose task was cancelled."""


class Timer:
    """One call that is due."""

    __slots__ = ("args", "call", "cancelled", "process")

    def __init__(self, process: "Process | None", call: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.process = process
        self.call = call
        self.args = args
        self.cancelled = False


class Future(Generic[T]):
    """Result that is not there yet."""

    __slots__ = ("_error", "_result", "_waiters", "done")

    def __init__(self) -> None:
        self.done = False
        self._result: T | None = None
        self._error: BaseException | None = None
        self._waiters: list[Callable[[Future[T]], None]] = []

    def set(self, result: T | None = None) -> None:
        """Sets the result. A second call changes nothing."""
        if not self.done:
            self._result = result
            self._finish()

    def fail(self, error: BaseException) -> None:
        """Sets an error. A second call changes nothing."""
        if not self.done:
            self._error = error
            self._finish()

    def result(self) -> T:
        """Returns the result, or raises the error."""
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]

    def when_done(self, call: "Callable[[Future[T]], None]") -> None:
        """Calls it with this future, at once where it is done."""
        if self.done:
            call(self)
        else:
            self._waiters.append(call)

    def __await__(self) -> Generator["Future[T]", None, T]:
        if not self.done:
            yield self
        return self.result()

    def _finish(self) -> None:
        self.done = True
        waiters, self._waiters = self._waiters, []
        for call in waiters:
            call(self)


class Task(Future[Any]):
    """One coroutine of a process. What it raises is told to the clockwork's `failed`."""

    __slots__ = ("_awaited", "_cancelling", "_coroutine", "_process")

    def __init__(self, process: "Process", coroutine: Coroutine[Any, Any, Any]) -> None:
        super().__init__()
        self._process = process
        self._coroutine = coroutine
        self._awaited: Future[Any] | None = None
        self._cancelling = False
        process.call_soon(self._step, None)

    def cancel(self) -> None:
        """Raises CancelledError inside the coroutine in the next turn."""
        if not self.done and not self._cancelling:
            self._cancelling = True
            self._process.call_soon(self._step, self._awaited)

    def close(self) -> None:
        """Ends the coroutine as the end of its process does: nothing that it would send leaves any more."""
        self._coroutine.close()

    def _step(self, awaited: Future[Any] | None) -> None:
        if self.done or self._awaited is not awaited:
            return
        self._awaited = None
        try:
            if self._cancelling:
                self._cancelling = False
                waits_for = self._coroutine.throw(CancelledError())
            else:
                waits_for = self._coroutine.send(None)
        except StopIteration as end:
            self.set(end.value)
        except CancelledError:
            self.set(None)
        except Exception as error:
            self.set(None)
            self._process.clockwork.failed(self._process, error)
        else:
            self._awaited = waits_for
            waits_for.when_done(self._wake)

    def _wake(self, done: Future[Any]) -> None:
        self._process.call_soon(self._step, done)


class Clockwork:
    """The only clock and the only loop of a world."""

    def __init__(self, failed: Callable[["Process", Exception], None]) -> None:
        self.now_s = 0.0
        self.steps = 0
        self.failed = failed
        """Called with what a process raises where its shell would let it end the process."""
        self.soon: deque[Timer] = deque()
        """Calls that are due now, before the next timer."""
        self._due: list[tuple[float, int, Timer]] = []
        self._number = 0

    def call_at(self, at_s: float, process: "Process | None", call: Callable[..., Any], *args: Any) -> Timer:
        timer = Timer(process, call, args)
        self._number = number = self._number + 1
        heappush(self._due, (at_s, number, timer))
        return timer

    def run(self, until_s: float) -> None:
        """Runs all that is due by then, in order of time, then in order of its making."""
        due, soon = self._due, self.soon
        next_soon = soon.popleft
        while True:
            while soon:
                timer = next_soon()
                if not timer.cancelled:
                    # What is due at once always belongs to a process.
                    timer.process.take(timer)  # type: ignore[union-attr]
            if not due or due[0][0] > until_s:
                break
            self.now_s, _, timer = heappop(due)
            if timer.cancelled:
                continue
            if timer.process is None:
                self.steps += 1
                timer.call(*timer.args)
            else:
                timer.process.take(timer)
        self.now_s = until_s


class Process:
    """One process: from its start to its end it has one identity. A restart makes another object."""

    def __init__(self, clockwork: Clockwork, name: str, site: str, *, monotonic_offset_s: float, wall_skew_s: float) -> None:
        self.clockwork = clockwork
        self.name = name
        self.site = site
        self.alive = True
        self.asleep_since_s: float | None = None
        self.wakes_at_s = 0.0
        """Moment at which it last woke, or is to wake."""
        self.connected = True
        self.connection = 0
        """Number of its connection to the site's server: what an earlier one had under way is lost."""
        self.reconnects_at_s = 0.0
        self._monotonic_offset_s = monotonic_offset_s
        self._wall_skew_s = wall_skew_s
        self._deferred: list[Timer] = []
        self._tasks: list[Task] = []

    @property
    def monotonic_s(self) -> float:
        """The process's own monotonic clock: two processes' clocks have nothing in common but their pace."""
        return self.clockwork.now_s + self._monotonic_offset_s

    @property
    def unix_s(self) -> float:
        """The host's clock."""
        return 1.7e9 + self.clockwork.now_s + self._wall_skew_s

    def take(self, timer: Timer) -> None:
        """Runs a timer, or keeps it until the process wakes. A dead process does nothing."""
        if not self.alive:
            return
        if self.asleep_since_s is not None:
            self._deferred.append(timer)
        elif not timer.cancelled:
            self.clockwork.steps += 1
            try:
                timer.call(*timer.args)
            except Exception as error:
                self.clockwork.failed(self, error)

    def call_now(self, call: Callable[..., Any], *args: Any) -> None:
        """Calls it in this turn, for a message that has just arrived: nothing else is due before it."""
        self.take(Timer(self, call, args))

    def call_soon(self, call: Callable[..., Any], *args: Any) -> None:
        """Calls it in the next turn, after all that is due already."""
        self.clockwork.soon.append(Timer(self, call, args))

    def call_later(self, delay_s: float, call: Callable[..., Any], *args: Any) -> Timer:
        return self.clockwork.call_at(self.clockwork.now_s + delay_s, self, call, *args)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> Task:
        if len(self._tasks) > 32:
            self._tasks = [task for task in self._tasks if not task.done]
        task = Task(self, coroutine)
        self._tasks.append(task)
        return task

    def sleep(self, delay_s: float) -> Future[None]:
        woken: Future[None] = Future()
        self.call_later(delay_s, woken.set)
        return woken

    async def wait(self, futures: Iterable[Future[Any]], timeout_s: float | None = None) -> bool:
        """Returns whether one of them is done; False when the time is over before."""
        futures = list(futures)
        woken: Future[Any] = Future()
        for future in futures:
            future.when_done(woken.set)
        timer = None if timeout_s is None or woken.done else self.call_later(max(0.0, timeout_s), woken.set)
        await woken
        if timer is not None:
            timer.cancelled = True
        return any(future.done for future in futures)

    def kill(self) -> None:
        """Ends the process at once."""
        self.alive = False
        self.connected = False
        for task in self._tasks:
            task.close()
        self._tasks.clear()
        self._deferred.clear()

    def stop(self, for_s: float) -> None:
        """Stops it as SIGSTOP does: its timers and what arrives wait. `wake` has to follow."""
        self.wakes_at_s = max(self.wakes_at_s, self.clockwork.now_s + for_s)
        if self.asleep_since_s is None:
            self.asleep_since_s = self.clockwork.now_s

    def wake(self) -> None:
        """Lets it go on, unless another stop lasts longer. All that was due meanwhile is due now, in order."""
        if self.clockwork.now_s < self.wakes_at_s:
            return
        self.asleep_since_s = None
        deferred, self._deferred = self._deferred, []
        self.clockwork.soon.extend(deferred)
