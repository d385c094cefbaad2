"""The emulated engine keeps the profile's pace and sizes, and its answer depends on every byte that was installed."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from tokenizers import Tokenizer

from prfaas.capacity.builtin import builtin_profile
from prfaas.contracts.to_decode import Sampling
from prfaas.engine import emulated
from prfaas.engine.emulated import EmulatedConfig
from prfaas.engine.emulated_kv import PrefixHashes
from prfaas.engine.emulated_model import EMULATED_MODELS, EOS_TOKEN_ID, byte_tokenizer, kv_line
from prfaas.engine.emulated_sequence import EmulatedSequence
from prfaas.engine.factory import EngineConfig, build_engine
from prfaas.engine.grammar import forms
from prfaas.engine.protocol import DecodeRow, EngineError, PrefillCancelled
from prfaas.engine.weights import prepare
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange, LayerSpec
from prfaas.process.config import ConfigError, load_config
from tests.budget import examples
from tests.engine.emulated_at_hand import answer, engine, prefilled, prompt
from tests.engine.grammar.following import bytes_at


@settings(deadline=None, max_examples=examples(40))
@given(st.integers(1, 400), st.integers(1, 300), st.sampled_from(sorted(EMULATED_MODELS)))
def test_pieces_cover_the_layout_exactly_and_never_depend_on_chunks(tokens: int, chunk_tokens: int, model: str) -> None:
    token_ids = prompt(tokens)
    one, other = engine(model, chunk_tokens=chunk_tokens), engine(model, chunk_tokens=1000)
    layers: dict[int, list[KVPiece]] = {}
    for piece in prefilled(one, token_ids):
        layers.setdefault(piece.range.layer, []).append(piece)
    for whole in prefilled(other, token_ids):
        parts = layers.pop(whole.range.layer)
        assert [part.range.start for part in parts] == [0, *(part.range.end for part in parts[:-1])]
        assert b"".join(part.keys for part in parts) == whole.keys
        assert b"".join(part.values for part in parts) == whole.values
    assert not layers


def test_sizes_follow_the_profile() -> None:
    for model, spec in EMULATED_MODELS.items():
        profile = builtin_profile(spec.kv_profile)
        for byte_scale, token_scale in ((1.0, 1.0), (1000.0, 8.0), (6000.0, 32.0)):
            layout = engine(model, byte_scale=byte_scale, token_scale=token_scale).layout
            for tokens in (1024, 8192, 32_768, 131_072):
                want = profile.kv_bytes(tokens) / byte_scale
                assert layout.total_bytes(round(tokens / token_scale)) == pytest.approx(want, rel=0.05)
    kinds = [layer.kind for layer in engine().layout.layers]
    assert kinds == [*[LayerKind.RECURRENT] * 3, LayerKind.FULL] * 2


def test_a_line_is_found_where_there_is_one() -> None:
    constant_bytes, token_bytes = kv_line(builtin_profile("minimax-m2.5-h200"))
    assert (constant_bytes, token_bytes) == pytest.approx((0.0, 62 * 2 * 8 * 128 * 2), abs=1e-3)


def test_the_answer_does_not_depend_on_the_machine_that_prefilled() -> None:
    here, there = engine(), engine(profile="paper-1t-h200")
    token_ids = prompt(300)
    assert here.describe().fingerprint == there.describe().fingerprint
    assert prefilled(here, token_ids) == prefilled(there, token_ids)
    assert answer(here, prefilled(there, token_ids), 300) == answer(here, prefilled(here, token_ids), 300)
    assert engine(byte_scale=3000.0).describe().fingerprint != here.describe().fingerprint
    assert engine(token_scale=16.0).describe().fingerprint != here.describe().fingerprint
    assert engine(chunk_tokens=65).describe().fingerprint != here.describe().fingerprint


@settings(deadline=None, max_examples=examples(60))
@given(st.data())
def test_one_wrong_bit_anywhere_changes_the_answer(data: st.DataObject) -> None:
    target = engine()
    pieces = prefilled(target, prompt(100))
    right = answer(target, pieces, 100)
    index = data.draw(st.integers(0, len(pieces) - 1))
    part, keys, values = pieces[index]
    half = data.draw(st.sampled_from(["keys", "values"] if len(values) else ["keys"]))
    damaged = bytearray(keys if half == "keys" else values)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    new = memoryview(damaged)
    pieces[index] = KVPiece(part, new, values) if half == "keys" else KVPiece(part, keys, new)
    assert answer(target, pieces, 100) != right


@settings(deadline=None, max_examples=examples(30))
@given(st.integers(2, 150), st.data())
def test_the_cache_of_another_prompt_gives_another_answer(tokens: int, data: st.DataObject) -> None:
    target = engine()
    token_ids = prompt(tokens)
    place = data.draw(st.integers(0, tokens - 1))
    changed = [*token_ids]
    changed[place] ^= 1
    right = prefilled(target, token_ids)
    wrong = prefilled(target, changed)
    assert answer(target, wrong, tokens) != answer(target, right, tokens)
    # One stale layer among right ones is seen too.
    layer = data.draw(st.integers(0, len(target.layout.layers) - 1))
    mixed = [(bad if good.range.layer == layer else good) for good, bad in zip(right, wrong, strict=True)]
    assert answer(target, mixed, tokens) != answer(target, right, tokens)


def test_keys_and_values_may_have_unlike_widths() -> None:
    layout = KVLayout(dtype="bfloat16", layers=(LayerSpec(kind=LayerKind.FULL, kv_heads=1, head_dim=12, value_dim=4),))
    hashes, sequence = PrefixHashes(prompt(20)), EmulatedSequence(layout, 20, 24)
    whole = hashes.piece(layout, LayerRange(0, 0, 20))
    assert (whole.keys.nbytes, whole.values.nbytes) == (20 * 24, 20 * 8)
    for start, end in ((0, 7), (7, 20)):
        sequence.install(hashes.piece(layout, LayerRange(0, start, end)))
    assert sequence.read(LayerRange(0, 0, 20)) == whole
    assert sequence.read(LayerRange(0, 5, 9)) == whole.part(5, 9)
    data = memoryview(bytes(20 * 32))
    with pytest.raises(EngineError, match="expected are 480 of keys and 160 of values"):
        EmulatedSequence(layout, 20, 24).install(KVPiece(LayerRange(0, 0, 20), data[:320], data[320:]))


def test_order_of_tokens_matters() -> None:
    target = engine()
    assert prefilled(target, [1, 2, 3, 4]) != prefilled(target, [1, 3, 2, 4])
    assert answer(target, prefilled(target, [5]), 1, last=1) != answer(target, prefilled(target, [5]), 1, last=2)


def test_a_missing_piece_is_refused() -> None:
    target = engine()
    pieces = prefilled(target, prompt(100))
    for left_out in range(len(pieces)):
        rest = pieces[:left_out] + pieces[left_out + 1 :]
        with pytest.raises(EngineError, match=r"not installed|expected is a range"):
            answer(target, rest, 100)


def test_what_does_not_fit_is_refused_and_a_failed_step_moves_nothing() -> None:
    target = engine()
    pieces = prefilled(target, prompt(10))
    sequence = target.reserve(10, 12)
    part, keys, values = pieces[-1]
    with pytest.raises(EngineError, match="bytes"):
        target.install(sequence, KVPiece(part, keys[:-2], values))
    with pytest.raises(EngineError, match="layer 99"):
        target.install(sequence, KVPiece(part._replace(layer=99), keys, values))
    for piece in pieces:
        target.install(sequence, piece)
    sampler = target.sampler(Sampling(max_tokens=2))
    row = DecodeRow(sequence=sequence, token_id=3, sampler=sampler)
    empty = DecodeRow(sequence=target.reserve(10, 12), token_id=3, sampler=sampler)
    with pytest.raises(EngineError, match="row 1"):
        target.decode([row, empty])
    assert target.decode([row])[0].token_id == answer(target, pieces, 10, last=3, tokens=1)[0]
    target.decode([row])
    with pytest.raises(EngineError, match="is full"):
        target.decode([row])
    with pytest.raises(EngineError, match="token ids are"):
        target.prefill([1, 300], lambda piece: None, lambda: False)


def test_a_batch_answers_as_its_rows_do_alone() -> None:
    target = engine()
    prompts = [prompt(tokens, seed=tokens) for tokens in (1, 50, 64, 65, 200)]
    alone = [answer(target, prefilled(target, token_ids), len(token_ids), tokens=4) for token_ids in prompts]
    rows = []
    for token_ids in prompts:
        sequence = target.reserve(len(token_ids), len(token_ids) + 5)
        for piece in prefilled(target, token_ids):
            target.install(sequence, piece)
        rows.append(DecodeRow(sequence=sequence, token_id=7, sampler=target.sampler(Sampling(max_tokens=4))))
    together: list[list[int]] = [[] for _ in rows]
    for _ in range(4):
        for row, out, sampled in zip(rows, together, target.decode(rows), strict=True):
            row.token_id = sampled.token_id
            out.append(sampled.token_id)
    assert together == alone


def test_a_prompt_of_one_token_needs_no_cache() -> None:
    target = engine()
    assert len(answer(target, [], 0)) == 12


def test_prefill_takes_at_least_its_time_and_spreads_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    paced = engine(time_scale=20.0)
    due: list[float] = []
    emitted: list[tuple[float, float]] = []
    sleep_until = emulated._sleep_until

    def note(due_at: float, cancelled: Callable[[], bool]) -> None:
        due.append(due_at)
        sleep_until(due_at, cancelled)

    monkeypatch.setattr(emulated, "_sleep_until", note)
    started_at = time.monotonic()
    paced.prefill(prompt(500), lambda piece: emitted.append((due[-1], time.monotonic())), lambda: False)
    want_s = paced.prefill_s(500)
    assert emitted[-1][1] - started_at >= want_s - 1e-3
    assert emitted[-1][0] - emitted[0][0] > want_s / 2, "the first piece is due long before the last"
    assert all(at >= due_at for due_at, at in emitted)


def test_decode_takes_at_least_its_time_and_more_above_the_batch_limit() -> None:
    paced = engine(time_scale=20.0)
    limit = paced.profile.batch_max()
    assert paced.step_s(limit) == pytest.approx(0.025 * 32 / 20)
    assert paced.step_s(2 * limit) == pytest.approx(2 * paced.step_s(limit))
    started_s = time.monotonic()
    answer(paced, prefilled(engine(), prompt(10)), 10, tokens=3)
    assert time.monotonic() - started_s >= 3 * paced.step_s(1) - 1e-3


def test_a_machine_without_a_decode_profile_only_prefills() -> None:
    with pytest.raises(EngineError, match="can only prefill"):
        answer(engine(profile="paper-1t-h200"), [], 0)


def test_a_prefill_stops_when_it_is_cancelled() -> None:
    slow = engine(time_scale=0.01)
    cancel = threading.Event()
    done: list[BaseException] = []

    def run() -> None:
        try:
            slow.prefill(prompt(500), lambda piece: None, cancel.is_set)
        except PrefillCancelled as stopped:
            done.append(stopped)

    thread = threading.Thread(target=run)
    thread.start()
    cancel.set()
    thread.join(10)
    assert not thread.is_alive() and done


def test_bytes_are_as_compressible_as_real_kv() -> None:
    pieces = prefilled(engine("emulated-dense", byte_scale=1000.0, token_scale=1.0), prompt(3000))
    raw = np.frombuffer(b"".join(piece.keys for piece in pieces), dtype=np.uint8)
    packed = sum(len(zstandard.compress(raw[plane::2].tobytes(), 3)) for plane in (0, 1))
    assert 1.42 < len(raw) / packed < 1.52


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"profile": "nobody"}, "no built-in profile nobody"),
        ({"profile": "/nowhere.json"}, "cannot be read"),
        ({"byte_scale": 1e9}, "leaves a token 0 bytes"),
    ],
)
def test_a_wrong_configuration_is_explained(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        engine(**changes)


def test_unknown_models_and_scales_are_explained() -> None:
    with pytest.raises(EngineError, match="emulated-1t"):
        engine("gpt-5")
    with pytest.raises(ValueError, match="time-scale is 0"):
        EmulatedConfig(time_scale=0)


@given(st.text())
def test_the_tokenizer_maps_any_text_to_its_bytes(text: str) -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode(text).ids
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text


def test_nothing_here_loads_torch() -> None:
    check = "import sys, prfaas.engine.emulated; print(sorted({'torch', 'transformers', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60).stdout == "[]\n"


def test_an_emulated_model_needs_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRFAAS_CACHE_DIR", str(tmp_path))
    files = prepare("emulated-1t")
    description = build_engine(EngineConfig(engine="emulated", model="emulated-1t")).describe()
    assert (files.max_context_tokens, files.eos_token_ids) == (description.max_context_tokens, description.eos_token_ids)
    assert Tokenizer.from_file(str(files.tokenizer)).encode("hé").ids == list("hé".encode())


def test_the_engine_is_configured_from_flags() -> None:
    flags = [
        "--engine",
        "emulated",
        "--model",
        "emulated-1t",
        "--emulated.time-scale",
        "20",
        "--emulated.profile",
        "paper-1t-h200",
    ]
    config = load_config(EngineConfig, argv=flags, environ={})
    assert (config.engine, config.emulated.time_scale, config.emulated.profile) == ("emulated", 20.0, "paper-1t-h200")
    with pytest.raises(ConfigError, match=r"emulated\.time-scale"):
        load_config(EngineConfig, argv=["--emulated.time-skale", "2"], environ={})


def test_a_slow_taker_of_pieces_slows_the_prefill() -> None:
    """Back-pressure: what holds a piece for longer than a layer takes holds the device."""
    paced = engine(time_scale=20.0)
    want_s = paced.prefill_s(64)
    layer_s = want_s / len(paced.layout.layers)
    started_s = time.monotonic()
    pieces: list[KVPiece] = []

    def take(piece: KVPiece) -> None:
        if not pieces:
            time.sleep(want_s)  # a device that went on meanwhile would have all other pieces ready
        pieces.append(piece)

    paced.prefill(prompt(64), take, lambda: False)
    assert time.monotonic() - started_s >= 2 * want_s - layer_s - 1e-3


def test_an_answer_follows_a_grammar(tmp_path: Path) -> None:
    last = prompt(50)[-1]
    target = engine()
    sequence = target.reserve(50, 400)
    for piece in prefilled(target, prompt(50)):
        target.install(sequence, piece)
    matcher = bytes_at(tmp_path).matcher(forms.json_schema({"type": "array", "items": {"enum": ["a", "bc"]}, "minItems": 1}))
    said, token_id = bytearray(), last
    while True:
        row = DecodeRow(sequence=sequence, token_id=token_id, sampler=Sampling(max_tokens=1), allowed=matcher.mask)
        token_id = target.decode([row])[0].token_id
        if token_id == EOS_TOKEN_ID:
            break
        matcher.take(token_id)
        said.append(token_id)
    assert set(json.loads(said)) <= {"a", "bc"}
