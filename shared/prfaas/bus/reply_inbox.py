"""Reply subjects of one control connection."""

import asyncio
import contextlib
import re
import secrets
from collections.abc import Iterator

from nats.aio.client import Client
from nats.aio.msg import Msg

from prfaas.contracts import subjects

Answer = asyncio.Future[Msg]


def subject_token(name: str) -> str:
    """Returns the name with all characters replaced that a subject's token may not hold."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


class ReplyInbox:
    """Wildcard subscription for all answers. Each question has a token of its own that cannot be guessed.

    The subject of a reply names the site that it is asked from. So a server lets another site answer its own questions only."""

    def __init__(self, site: str, name: str) -> None:
        self._site = site
        self._name = subject_token(name)
        self._connection = secrets.token_hex(8)
        self._waiting: dict[str, Answer] = {}

    async def open(self, client: Client) -> None:
        """Subscribes. Raises nats.errors.Error."""
        every = f"{subjects.replies(self._site, '*', self._name)}.{self._connection}.*"
        await client.subscribe(every, cb=self._on_answer)

    @contextlib.contextmanager
    def expect(self, asked: str) -> Iterator[tuple[str, Answer]]:
        """Yields the reply subject for a question on the subject `asked`, and the future of its answer."""
        token = secrets.token_hex(8)
        answer: Answer = asyncio.get_running_loop().create_future()
        self._waiting[token] = answer
        try:
            prefix = subjects.replies(self._site, subjects.answering_site(asked), self._name)
            yield f"{prefix}.{self._connection}.{token}", answer
        finally:
            del self._waiting[token]

    async def _on_answer(self, message: Msg) -> None:
        answer = self._waiting.get(message.subject.rpartition(".")[2])
        if answer is not None and not answer.done():
            answer.set_result(message)
