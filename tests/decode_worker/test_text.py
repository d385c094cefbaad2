"""Text that is certain: stop strings across tokens, characters across tokens."""

import hypothesis.strategies as st
from hypothesis import given
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from prfaas_decode_worker.text import StopMatcher, TextStream


@given(st.lists(st.text("ab\n", max_size=3)), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_matcher_cuts_before_the_first_stop_string(parts: list[str], stop: list[str]) -> None:
    matcher, shown, stopped, whole = StopMatcher(stop), "", False, ""
    for part in parts:
        text, stopped = matcher.push(part)
        shown += text
        whole += part
        if stopped:
            break
    ends = [at for at in (whole.find(s) for s in stop) if at >= 0]
    if stopped:
        assert shown == whole[: min(ends)]
        assert matcher.flush() == ""
    else:
        assert not ends
        assert shown + matcher.flush() == whole


@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1))
def test_matcher_holds_back_no_more_than_a_stop_string_could_need(parts: list[str]) -> None:
    matcher, shown = StopMatcher(["bbbb!"]), ""
    for count, part in enumerate(parts, 1):
        shown += matcher.push(part)[0]
        assert len("".join(parts[:count])) - len(shown) < len("bbbb!")


def byte_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@given(st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_characters_of_several_tokens_come_whole(text: str) -> None:
    tokenizer = byte_tokenizer()
    stream = TextStream(tokenizer, [])
    shown = [stream.push(token_id).text for token_id in tokenizer.encode(text).ids]
    assert "".join(shown) == text
    assert all("�" not in part for part in shown) or "�" in text
