"""Questions to a server before the run: its model, which prompts it takes, and how their tokens count.

Each question is one small request; none of them counts as part of the run.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import msgspec

from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Client, Target
from prfaas.replay.prompts import BYTE_TOKENS, Prompt
from prfaas.replay.record import Record
from prfaas.replay.words import MIN_STABLE, Alphabet, UnstableText, stable_alphabet

VOCABULARIES = (range(1000, 32_000), BYTE_TOKENS)
"""Token ids that are tried: words of nearly every vocabulary, past its special tokens, and those of a byte vocabulary."""
CHECK_TIMEOUT_S = 60.0
_HTTP_TIMEOUT_S = 10.0
PROMPT_KINDS = ("auto", "tokens", "text")


class TargetError(Exception):
    """A server that cannot be replayed against; the message is a sentence."""


class PromptPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Way of making prompts for this server."""

    kind: str
    """`tokens` or `text`."""
    vocabulary: tuple[int, int] = (0, 0)
    """Token ids from the first to before the second."""
    words: tuple[str, ...] = ()
    overhead_tokens: int = 0
    checked: str
    """Sentence for the report."""


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    target: Target
    prompts: PromptPlan
    max_model_tokens: int | None


class _Model(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


async def check_target(target: Target, kind: str, tokenizer: Path | None, *, has_lengths: bool) -> Checked:
    """Asks the server. `has_lengths`: whether any prompt has to be made at all. Raises TargetError."""
    model = await _model(target)
    target = msgspec.structs.replace(target, model=model.id)
    async with Client(target, 0.0) as client:
        target = await _ignoring_eos(client, target)
    async with Client(target, 0.0) as client:
        if not has_lengths:
            plan = PromptPlan(kind="text", checked="The trace has its prompts as text.")
        elif kind == "text" or target.chat:
            plan = await _text_plan(client, tokenizer)
        else:
            plan = await _token_plan(client, kind, tokenizer)
    return Checked(target=target, prompts=plan, max_model_tokens=model.max_model_len)


async def _model(target: Target) -> _Model:
    if "@" in target.url:
        raise TargetError("the target's URL holds a password, which would stand in the report: give a key with --api-key.")
    headers = {"authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    url = target.url.rstrip("/") + "/v1/models"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_HTTP_TIMEOUT_S), headers=headers) as http,
            http.get(url) as response,
        ):
            body, status = await response.read(), response.status
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
        raise TargetError(f"{target.url!r} is no URL of a server; expected one like http://127.0.0.1:8000.") from error
    except TimeoutError as error:
        raise TargetError(f"{url} did not answer within {_HTTP_TIMEOUT_S:g} s.") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise TargetError(f"{url} cannot be reached: {error}.") from error
    if status != 200:
        hint = " Give the key with --api-key or OPENAI_API_KEY." if status in (401, 403) else ""
        raise TargetError(f"{url} answered with status {status}.{hint}")
    try:
        models = msgspec.json.decode(body, type=_Models).data
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"{url} is not an OpenAI-compatible server: {error}.") from error
    if target.model:
        found = [model for model in models if model.id == target.model]
        if not found:
            raise TargetError(f"there is no model {target.model!r}; the server has {_listed(models)}.")
        return found[0]
    if len(models) != 1:
        raise TargetError(f"the server has {_listed(models)}: choose one with --model.")
    return models[0]


def _listed(models: list[_Model]) -> str:
    return ", ".join(model.id for model in models) or "no model"


async def _ask(client: Client, prompt: Prompt) -> Record:
    record = Record(arrival=Arrival(0.0, 1, 1))
    record.arrival = record.arrival._replace(arrival_s=client.now_s())
    await client.ask(record, prompt)
    return record


async def _ignoring_eos(client: Client, target: Target) -> Target:
    """Returns the target without `ignore_eos` where the server refuses it. Raises TargetError when it refuses a plain prompt."""
    record = await _ask(client, "Hello")
    if record.status != 400:
        _reached(record)
        return target
    plain = msgspec.structs.replace(target, ignore_eos=False)
    async with Client(plain, 0.0) as without:
        again = await _ask(without, "Hello")
    if again.status == 400:
        raise TargetError(f"the server refuses a plain prompt: {again.message or again.error}.")
    _reached(again)
    return plain


def _reached(record: Record) -> None:
    """Raises TargetError for what no other prompt would mend; an overloaded server is not one."""
    if record.error in ("connection", "protocol") or record.status in (401, 403, 404, 405):
        raise TargetError(f"the server does not answer a prompt: {record.error} {record.message}".rstrip(" .") + ".")


async def _token_plan(client: Client, kind: str, tokenizer: Path | None) -> PromptPlan:
    for vocabulary in VOCABULARIES:
        ids = [vocabulary.start, vocabulary.stop - 1] * 8
        record = await _ask(client, ids)
        if record.status != 200:
            continue
        place = f"token ids {vocabulary.start} to {vocabulary.stop - 1}"
        if not record.prompt_tokens:
            return _ids(vocabulary, f"Prompts are {place}; the server does not say how many it counts.")
        if record.prompt_tokens == len(ids):
            return _ids(vocabulary, f"Prompts are {place}; a prompt of {len(ids)} counted {record.prompt_tokens} at the server.")
    if kind == "tokens":
        raise TargetError("the server takes no prompts of token ids; try --prompts text.")
    return await _text_plan(client, tokenizer)


def _ids(vocabulary: range, checked: str) -> PromptPlan:
    return PromptPlan(kind="tokens", vocabulary=(vocabulary.start, vocabulary.stop), checked=checked)


async def _text_plan(client: Client, tokenizer: Path | None) -> PromptPlan:
    async def count_at_server(text: str) -> int:
        record = await _ask(client, text)
        if record.error:
            raise TargetError(f"the server does not answer a prompt: {record.error} {record.message}".rstrip(" .") + ".")
        if not record.prompt_tokens:
            raise TargetError("the server does not count its prompts' tokens (usage): give its tokenizer with --tokenizer.")
        return record.prompt_tokens

    count: Callable[[str], Awaitable[int]] = count_at_server
    by = "usage.prompt_tokens"
    if tokenizer is not None:
        count, by = _tokenizer_count(tokenizer), f"the tokenizer {tokenizer.name}"
    try:
        found = await stable_alphabet(count)
    except UnstableText as error:
        raise TargetError(str(error)) from error
    overhead_tokens = found.overhead_tokens
    if tokenizer is not None:
        # The tokenizer does not know the chat template: what comes around the text only the server can say.
        record = await _ask(client, "".join(found.members[:MIN_STABLE]))
        overhead_tokens = max(0, record.prompt_tokens - MIN_STABLE)
    return PromptPlan(
        kind="text", words=found.members, overhead_tokens=overhead_tokens, checked=_text_sentence(found, by, overhead_tokens)
    )


def _text_sentence(found: Alphabet, by: str, overhead_tokens: int) -> str:
    what = "words" if len(found.members[0]) > 1 else "letters"
    return (
        f"Prompts are text of {len(found.members)} {what} of one token each, found with {found.counts} texts by {by}; "
        f"{overhead_tokens} tokens come around it."
    )


def _tokenizer_count(path: Path) -> Callable[[str], Awaitable[int]]:
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises plain Exceptions
        raise TargetError(f"the tokenizer {file} cannot be read: {error}.") from error

    async def count(text: str) -> int:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        # A round trip: what comes back must be the same text, or a token may merge with its neighbours.
        return len(ids) if tokenizer.decode(ids, skip_special_tokens=False) == text else -1

    return count
