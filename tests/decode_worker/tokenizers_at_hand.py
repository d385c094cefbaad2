"""Tokenizers of every kind that is served: those of the real models, and small ones of the other kinds."""

from collections.abc import Callable
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models

from prfaas.engine.emulated_model import byte_tokenizer
from prfaas.engine.weights import prepare
from prfaas_decode_worker.decoder_stages import BYTE_OF_CHARACTER as BYTES

BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ["▁", "▁x", "x", "▁▁a", "▁été", "a▁b", "猫", " ", "\n", "<0xZZ>", "�", "🦙"]
SPECIAL = [AddedToken("<s>", special=True), AddedToken("</s>", special=True)]


def with_special(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens([AddedToken("▁added token", special=False)])
    return tokenizer


def unigram(decoder: decoders.Decoder) -> Tokenizer:
    """Metaspace pieces with byte fallback, as SentencePiece's unigram models have them."""
    pieces = [("<unk>", 0.0), *((token, -1.0) for token in [*BYTE_TOKENS, *WORDS])]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.decoder = decoder
    return with_special(tokenizer)


def llama() -> Tokenizer:
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return unigram(decoders.Sequence(steps))


def strips_every_token() -> Tokenizer:
    steps = [decoders.Replace("▁", " "), decoders.Strip(" ", 2, 0), decoders.ByteFallback(), decoders.Fuse()]
    return unigram(decoders.Sequence(steps))


def byte_runs_then_metaspace() -> Tokenizer:
    return unigram(decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]))


def replaced_by_regex() -> Tokenizer:
    return unigram(decoders.Sequence([decoders.Replace(Regex("[▁a]+"), "--"), decoders.ByteFallback(), decoders.Fuse()]))


def word_piece() -> Tokenizer:
    words = ["[UNK]", "hello", "##ing", "##�", ".", "n't", "do not", "été", "##", "猫", "a", "##a"]
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    return with_special(tokenizer)


def word_ends() -> Tokenizer:
    words = ["low</w>", "er", "er</w>", "</w>", "a</w>b", "猫</w>", "a</w></w>"]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, []))
    tokenizer.decoder = decoders.BPEDecoder()
    return with_special(tokenizer)


def words() -> Tokenizer:
    """No decoder at all: the words come joined by spaces."""
    found = ["[UNK]", "hello", "world", "猫", ""]
    return with_special(Tokenizer(models.WordLevel({word: index for index, word in enumerate(found)}, unk_token="[UNK]")))


def byte_level() -> Tokenizer:
    return with_special(byte_tokenizer())


def real(model: str) -> Callable[[], Tokenizer]:
    return lambda: Tokenizer.from_file(str(prepare(model).tokenizer))


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    name: cache(make)
    for name, make in {
        "gemma": real("gemma-3-270m"),
        "smollm2": real("smollm2-135m"),
        "byte level": byte_level,
        "llama": llama,
        "strips every token": strips_every_token,
        "metaspace": lambda: unigram(decoders.Metaspace()),
        "metaspace never prepends": lambda: unigram(decoders.Metaspace(prepend_scheme="never")),
        "byte runs, then metaspace": byte_runs_then_metaspace,
        "replaced by regex": replaced_by_regex,
        "WordPiece": word_piece,
        "word ends": word_ends,
        "words": words,
    }.items()
}


WITHOUT_BYTES = {"metaspace", "metaspace never prepends", "WordPiece", "word ends", "words"}


@cache
def byte_token_ids(name: str) -> dict[int, int]:
    """The ids of tokens that are one byte, by byte; a vocabulary need not have all of them."""
    tokenizer = TOKENIZERS[name]()
    if name in WITHOUT_BYTES:
        return {}
    spelled = BYTE_TOKENS if tokenizer.token_to_id(BYTE_TOKENS[0]) is not None else sorted(BYTES, key=BYTES.__getitem__)
    found = {byte: tokenizer.token_to_id(token) for byte, token in enumerate(spelled)}
    return {byte: token_id for byte, token_id in found.items() if token_id is not None}


@cache
def special_token_ids(name: str) -> tuple[int, ...]:
    added = TOKENIZERS[name]().get_added_tokens_decoder()
    return tuple(token_id for token_id, token in added.items() if token.special)


def token_id_of(name: str, token: str) -> int:
    token_id = TOKENIZERS[name]().token_to_id(token)
    assert token_id is not None, f"{name} has no token {token!r}"
    return token_id
