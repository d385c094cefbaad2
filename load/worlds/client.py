"""One client: what it asked for, what it got, and how that ended."""

from load.worlds.clockwork import Task
from load.worlds.model import Answer, faultless
from load.worlds.plan import RequestPlan
from prfaas.contracts.to_gateway import Finished, Started, Tokens


class Client:
    def __init__(self, plan: RequestPlan) -> None:
        self.plan = plan
        self.expected: Answer = faultless(plan.prompt, plan.sampling)
        self.token_ids: list[int] = []
        self.text = ""
        self.ends: list[str] = []
        """Finish reasons, codes of failures, `left`, `torn`; exactly one in the end."""
        self.events_after_end = 0
        self.prefill_site = ""
        self.sites: set[str] = set()
        """Sites that have made its KV."""
        self.attempts = 0
        self.task: Task | None = None
        self.asked_at_s = 0.0
        self.first_token_s = 0.0
        """Time from its arrival to its first token, or to an end without any."""

    def take(self, event: Started | Tokens | Finished, now_s: float) -> None:
        self.events_after_end += bool(self.ends)
        match event:
            case Started(prefill_site=site):
                self.prefill_site = site
                self.sites.add(site)
            case Tokens(token_ids=token_ids, text=text):
                if not self.token_ids:
                    self.first_token_s = now_s - self.asked_at_s
                self.token_ids += token_ids
                self.text += text
            case Finished(text=text, transfer=report):
                self.text += text
                self.attempts = report.attempts

    def end(self, how: str) -> None:
        self.ends.append(str(how))

    def serve_by(self, task: Task) -> None:
        """Takes the task that serves it. One that is cancelled before it begins ends like one that is left later."""
        self.task = task
        task.when_done(self._closed)

    def leave(self) -> None:
        """Closes the connection."""
        if not self.ends and self.task is not None:
            self.task.cancel()

    def _closed(self, _: object) -> None:
        if not self.ends:
            self.end("left")

    def wrong(self, liar_site: str) -> str | None:
        """Returns what is wrong with the answer so far; None for a beginning of the faultless one.

        KV of `liar_site` may be wrong, and the answer with it."""
        expected = self.expected
        if len(self.ends) > 1:
            return f"it ended {len(self.ends)} times: {self.ends}"
        if self.events_after_end:
            return "an event came after its end"
        if liar_site in self.sites:
            return None
        if tuple(self.token_ids) != expected.token_ids[: len(self.token_ids)]:
            return f"tokens {self.token_ids} came, expected {list(expected.token_ids)}"
        if not expected.text.startswith(self.text):
            return f"the text {self.text!r} came, expected {expected.text!r}"
        whole = tuple(self.token_ids), self.text, *self.ends[:1]
        if self.ends and self.ends[0] in ("stop", "length") and whole != expected:
            return f"the answer ended as {self.ends[0]} with {self.token_ids}, expected {expected}"
        return None
