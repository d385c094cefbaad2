"""News that one sampled token brings its client: text, log-probabilities, perhaps the end of the answer."""

from collections.abc import Collection
from typing import NamedTuple

from prfaas.contracts.terms import FinishReason
from prfaas.contracts.to_gateway import TokenDetail, TokenLogprob
from prfaas.engine.protocol import SampledToken
from prfaas_decode_worker.request import Delta, Request, Text, Vocabulary


class TokenNews(NamedTuple):
    """News of one token for the client."""

    is_end_token: bool
    """True when it ends the answer by itself. Such a token counts as generated, and is not sent."""
    text: str
    details: tuple[TokenDetail, ...] = ()
    finish_reason: FinishReason | None = None
    rest: str = ""
    """Text that was held back until the answer's end."""


def take_token(request: Request, token: SampledToken, vocabulary: Vocabulary, eos_token_ids: Collection[int]) -> TokenNews:
    """Adds a token to its answer. Raises what the text raises: then the request cannot go on."""
    sampling = request.generate.sampling
    request.generated += 1
    request.next_token = token.token_id
    # Samplers draw no end token before `min_tokens`. Where an engine does, it is a token like any other.
    may_end = request.generated > sampling.min_tokens
    is_end = token.token_id in sampling.stop_token_ids or (not sampling.ignore_eos and token.token_id in eos_token_ids)
    if may_end and is_end:
        return TokenNews(True, "", finish_reason=FinishReason.STOP, rest=request.text.flush().text)
    details = () if sampling.top_logprobs is None else (token_detail(vocabulary, request.text, token),)
    return _told(request, request.text.push(token.token_id), details)


def replay(request: Request) -> TokenNews | None:
    """Adds the tokens that an earlier decode worker has sent, so that the text goes on after theirs.

    Returns the news of the one that ends the answer; None where it goes on. Raises what the text raises."""
    for token_id in request.sent:
        request.generated += 1
        news = _told(request, request.text.push(token_id), ())
        if news.finish_reason is not None:
            return news
    return None


def _told(request: Request, delta: Delta, details: tuple[TokenDetail, ...]) -> TokenNews:
    if delta.stopped:
        return TokenNews(False, delta.text, details, FinishReason.STOP)
    if request.tokens_left > 0:
        return TokenNews(False, delta.text, details)
    rest = request.text.flush()
    return TokenNews(False, delta.text, details, FinishReason.STOP if rest.stopped else FinishReason.LENGTH, rest.text)


def token_detail(vocabulary: Vocabulary, text: Text, token: SampledToken) -> TokenDetail:
    """Returns the log-probabilities of a token that `text` has not taken yet."""
    assert token.logprob is not None, "the engine was asked for log-probabilities and gave none"
    return TokenDetail(
        chosen=_entry(vocabulary, token.token_id, token.logprob),
        top=tuple(_entry(vocabulary, token_id, logprob) for token_id, logprob in token.top),
        text_offset=text.offset_chars(token.token_id),
    )


def _entry(vocabulary: Vocabulary, token_id: int, logprob: float) -> TokenLogprob:
    data = vocabulary.token_bytes(token_id)
    return TokenLogprob(spelling(data), logprob, tuple(data), token_id)


def spelling(data: bytes) -> str:
    r"""Returns the bytes as text where they are UTF-8, else each as `\xf0`, as OpenAI spells a part of a character."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in data)
