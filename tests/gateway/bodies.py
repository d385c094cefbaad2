"""Request bodies for hypothesis: near enough to good ones to come far, and wrong in every way that JSON allows."""

from hypothesis import strategies as st

from prfaas_gateway.openai.fields import INERT
from prfaas_gateway.openai.unsupported import UNSUPPORTED

HELLO = [{"role": "user", "content": "hello"}]

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
names = st.sampled_from([
    "model", "prompt", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "min_tokens", "temperature",
    "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop", "ignore_eos", "logprobs", "top_logprobs", "role", "content",
    "type", "text", "include_usage", "presence_penalty", "frequency_penalty", "logit_bias", "stop_token_ids", "bad_words",
    "n", "best_of", "input", "system", "tools", "tool_choice",
    *UNSUPPORTED, *INERT,
]) | st.text(max_size=4)  # fmt: skip
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=8
)
bodies = st.builds(
    lambda extra, base, wins: {**base, **extra} if wins else {**extra, **base},
    st.dictionaries(names, values, max_size=6),
    st.sampled_from(
        [
            {},
            {"model": "tiny", "prompt": "hello"},
            {"model": "tiny", "messages": HELLO},
            {"model": "tiny", "messages": HELLO, "max_tokens": 5},
            {"model": "tiny", "input": "hello"},
        ]
    ),
    st.booleans(),
)
