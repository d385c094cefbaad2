"""The promises of prfaas.engine.protocol.Engine, as tests that any engine runs.

An engine's test class inherits EngineContract and gives it two fixtures: `engine`, and `prompt`, token ids of about 2.5 chunks.
Answers are compared exactly, so an engine whose sums depend on the batch must be given in a dtype that rounds finely enough.
"""

from collections.abc import Sequence

import pytest

from prfaas.contracts.to_decode import Sampling
from prfaas.engine.protocol import DecodeRow, Engine, EngineError, PrefillCancelled
from prfaas.kvcache.layout import KVPiece, LayerKind, LayerRange
from prfaas.kvcache.prefix_cache import PrefixCache

GREEDY = Sampling(max_tokens=8, temperature=0)
SEEDED = Sampling(max_tokens=8, temperature=1, seed=5)
CACHE_BYTES = 1 << 30


def prefilled(engine: Engine, token_ids: Sequence[int], cache: PrefixCache | None = None, from_token: int = 0) -> list[KVPiece]:
    """Pieces of a prefill, copied as the network would."""
    pieces: list[KVPiece] = []

    def keep(piece: KVPiece) -> None:
        pieces.append(KVPiece(piece.range, memoryview(bytes(piece.keys)), memoryview(bytes(piece.values))))

    if cache is None:
        engine.prefill(token_ids, keep, lambda: False, from_token=from_token)
    else:
        with cache.pin(token_ids) as prefix:
            engine.prefill(token_ids, keep, lambda: False, prefix=prefix, from_token=from_token)
        cache.validate()
    return pieces


def row_of(engine: Engine, pieces: Sequence[KVPiece], prompt: Sequence[int], sampling: Sampling = GREEDY) -> DecodeRow:
    """Row of a request whose whole prompt but the last token comes as `pieces`."""
    sequence = engine.reserve(len(prompt) - 1, len(prompt) + sampling.max_tokens)
    for piece in pieces:
        engine.install(sequence, piece)
    return DecodeRow(sequence=sequence, token_id=prompt[-1], sampler=engine.sampler(sampling))


def decoded(engine: Engine, rows: Sequence[DecodeRow], steps: int) -> list[list[int]]:
    out: list[list[int]] = [[] for _ in rows]
    for _ in range(steps):
        for row, tokens, sampled in zip(rows, out, engine.decode(rows), strict=True):
            row.token_id = sampled.token_id
            tokens.append(sampled.token_id)
    return out


def alone(engine: Engine, prompt: Sequence[int], steps: int, sampling: Sampling = GREEDY) -> list[int]:
    return decoded(engine, [row_of(engine, prefilled(engine, prompt[:-1]), prompt, sampling)], steps)[0]


def joined(pieces: Sequence[KVPiece]) -> dict[int, tuple[int, bytes, bytes]]:
    """Layer -> first token, keys and values of all its pieces."""
    found: dict[int, tuple[int, bytes, bytes]] = {}
    for (layer, start, _), keys, values in pieces:
        first, some_keys, some_values = found.get(layer, (start, b"", b""))
        found[layer] = first, some_keys + bytes(keys), some_values + bytes(values)
    return found


class EngineContract:
    def test_it_describes_itself(self, engine: Engine) -> None:
        description = engine.describe()
        assert description.fingerprint and description.layout.layers and description.chunk_tokens >= 1
        assert description == engine.describe()
        assert engine.sequence_bytes(1) <= engine.sequence_bytes(description.max_context_tokens)

    def test_pieces_are_the_layouts_ranges_in_order(self, engine: Engine, prompt: Sequence[int]) -> None:
        layout, chunk_tokens = engine.describe().layout, engine.describe().chunk_tokens
        for tokens in (1, chunk_tokens, chunk_tokens + 1, len(prompt)):
            ranges = [
                part
                for start in range(0, tokens, chunk_tokens)
                for part in layout.chunk_ranges(start, min(start + chunk_tokens, tokens), tokens)
            ]
            pieces = prefilled(engine, prompt[:tokens])
            assert [piece.range for piece in pieces] == ranges
            assert sum(piece.size_bytes for piece in pieces) == layout.total_bytes(tokens)

    def test_the_same_prompt_gives_the_same_bytes(self, engine: Engine, prompt: Sequence[int]) -> None:
        assert prefilled(engine, prompt) == prefilled(engine, prompt)

    def test_a_prefill_of_nothing_hands_out_nothing(self, engine: Engine) -> None:
        assert prefilled(engine, []) == []

    def test_a_cached_prefix_changes_no_bit(self, engine: Engine, prompt: Sequence[int]) -> None:
        cache = PrefixCache.for_model(engine.describe().layout, engine.describe().chunk_tokens, CACHE_BYTES)
        expected = joined(prefilled(engine, prompt))
        assert joined(prefilled(engine, prompt, cache)) == expected
        with cache.pin(prompt) as prefix:
            assert prefix.cached_tokens == len(prompt) // cache.block_tokens * cache.block_tokens
        assert joined(prefilled(engine, prompt, cache)) == expected
        assert cache.pinned == 0

    def test_the_other_ends_prefix_is_left_out(self, engine: Engine, prompt: Sequence[int]) -> None:
        layout, from_token = engine.describe().layout, engine.describe().chunk_tokens
        pieces = prefilled(engine, prompt, from_token=from_token)
        assert sum(piece.size_bytes for piece in pieces) == layout.total_bytes(len(prompt), from_token)
        assert all(joined(pieces)[layer][0] == layout.needed(layer, len(prompt), from_token).start for layer in joined(pieces))

    def test_a_prefill_stops_between_chunks_when_cancelled(self, engine: Engine, prompt: Sequence[int]) -> None:
        pieces: list[KVPiece] = []
        with pytest.raises(PrefillCancelled):
            engine.prefill(prompt, pieces.append, lambda: bool(pieces))
        assert sum(piece.size_bytes for piece in pieces) < engine.describe().layout.total_bytes(len(prompt))

    def test_what_on_piece_raises_is_passed_on(self, engine: Engine, prompt: Sequence[int]) -> None:
        def broken_link(_: KVPiece) -> None:
            raise ConnectionError("the link is gone")

        with pytest.raises(ConnectionError, match="the link is gone"):
            engine.prefill(prompt, broken_link, lambda: False)

    def test_wrong_tokens_and_too_long_prompts_are_refused(self, engine: Engine, prompt: Sequence[int]) -> None:
        limit_tokens = engine.describe().max_context_tokens
        with pytest.raises(EngineError):
            engine.prefill([-1], lambda piece: None, lambda: False)
        with pytest.raises(EngineError):
            engine.prefill([prompt[0]] * (limit_tokens + 1), lambda piece: None, lambda: False)
        with pytest.raises(EngineError):
            engine.reserve(1, limit_tokens + 1)

    def test_installed_kv_is_read_back(self, engine: Engine, prompt: Sequence[int]) -> None:
        pieces, layout = prefilled(engine, prompt[:-1]), engine.describe().layout
        sequence = row_of(engine, pieces, prompt).sequence
        for piece in pieces:
            if layout.layers[piece.range.layer].kind is LayerKind.FULL:
                again = engine.read(sequence, piece.range)
                assert (bytes(again.keys), bytes(again.values)) == (bytes(piece.keys), bytes(piece.values))

    def test_pieces_that_do_not_fit_are_refused(self, engine: Engine, prompt: Sequence[int]) -> None:
        piece = prefilled(engine, prompt[:-1])[0]
        sequence = engine.reserve(len(prompt) - 1, len(prompt) + 1)
        for wrong in (
            piece._replace(keys=piece.keys[:-1]),
            piece._replace(range=piece.range._replace(layer=99)),
            piece._replace(range=LayerRange(piece.range.layer, piece.range.start + 1, piece.range.end + 1)),
        ):
            with pytest.raises(EngineError):
                engine.install(sequence, wrong)

    def test_a_step_without_all_kv_is_refused_and_moves_nothing(self, engine: Engine, prompt: Sequence[int]) -> None:
        pieces, expected = prefilled(engine, prompt[:-1]), alone(engine, prompt, 3, SEEDED)
        row, lacking = row_of(engine, pieces, prompt, SEEDED), row_of(engine, pieces[:-1], prompt, SEEDED)
        with pytest.raises(EngineError):
            engine.decode([row, lacking])
        assert decoded(engine, [row], 3) == [expected]
        engine.install(lacking.sequence, pieces[-1])
        assert decoded(engine, [lacking], 3) == [expected]

    def test_a_full_sequence_is_refused(self, engine: Engine, prompt: Sequence[int]) -> None:
        short = Sampling(max_tokens=1, temperature=0)
        row = row_of(engine, prefilled(engine, prompt[:4]), prompt[:5], short)
        decoded(engine, [row], 2)
        with pytest.raises(EngineError):
            engine.decode([row])

    def test_an_empty_batch_is_empty(self, engine: Engine) -> None:
        assert engine.decode([]) == []

    def test_rows_that_join_and_leave_answer_as_they_do_alone(self, engine: Engine, prompt: Sequence[int]) -> None:
        prompts = [prompt[:1], prompt[:7], prompt[3:40], prompt]
        rows = [row_of(engine, prefilled(engine, each[:-1]), each) for each in prompts]
        together: list[list[int]] = [[] for _ in rows]
        for batch in ([0], [0, 1], [3, 1, 0, 2], [2, 3], [3, 2], [3]):
            for index, tokens in zip(batch, decoded(engine, [rows[index] for index in batch], 1), strict=True):
                together[index] += tokens
        assert together == [alone(engine, each, len(tokens)) for each, tokens in zip(prompts, together, strict=True)]

    def test_a_seed_fixes_the_answer(self, engine: Engine, prompt: Sequence[int]) -> None:
        assert alone(engine, prompt, 4, SEEDED) == alone(engine, prompt, 4, SEEDED)

    def test_another_prompts_kv_gives_another_answer(self, engine: Engine, prompt: Sequence[int]) -> None:
        other = [*prompt[1:-1], prompt[0], prompt[-1]]
        row = row_of(engine, prefilled(engine, other[:-1]), prompt, Sampling(max_tokens=8, temperature=0, top_logprobs=5))
        right = row_of(engine, prefilled(engine, prompt[:-1]), prompt, Sampling(max_tokens=8, temperature=0, top_logprobs=5))
        assert [engine.decode([row]) for _ in range(4)] != [engine.decode([right]) for _ in range(4)]
