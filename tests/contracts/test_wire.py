import hypothesis.strategies as st
import pytest
from hypothesis import given

from prfaas.contracts.to_gateway import Failed, GenerateEvent, Refusal, Started
from prfaas.contracts.wire import BadMessageError, decode, encode, pack_tokens, unpack_tokens


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_tokens_round_trip(token_ids: list[int]) -> None:
    assert unpack_tokens(pack_tokens(token_ids)) == token_ids


def test_tagged_unions_keep_their_kind() -> None:
    failed = Failed(request_id="r", sequence=3, code="x", message="y")
    assert decode(encode(failed), GenerateEvent) == failed


@given(st.binary(max_size=40))
def test_foreign_bytes_are_a_named_error(data: bytes) -> None:
    with pytest.raises(BadMessageError, match="is no Started"):
        decode(data, Started)


def test_a_message_of_another_kind_is_a_named_error() -> None:
    with pytest.raises(BadMessageError, match="Started"):
        decode(encode(Refusal(code="a", message="b", retry_after_s=1)), Started)


def test_half_a_token_is_a_named_error() -> None:
    with pytest.raises(BadMessageError, match="4 bytes each"):
        unpack_tokens(b"123")
