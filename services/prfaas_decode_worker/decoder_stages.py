"""Steps of a tokenizer's decoder, one token at a time. What a step has given out is never taken back.

Each stage gives the same pieces as the `tokenizers` decoder of the same name gives for the whole list. One rule is ours:
`ByteRuns` decides a run of more than `MAX_RUN_BYTES` byte tokens in parts.
"""

import codecs
import re
from collections.abc import Iterator
from typing import Protocol

from tokenizers import decoders

MAX_RUN_BYTES = 64
"""Most byte tokens that wait for the end of their run."""
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f+][0-9A-Fa-f])>")
_LEAD = "a"
"""A token that every positional decoder leaves as it is; put in front, it makes the next token one that is not the first."""


class Stage(Protocol):
    """One step of a decoder."""

    def push(self, piece: str) -> list[str]:
        """Returns the pieces that are certain now."""
        ...

    def flush(self) -> list[str]:
        """Returns what was held back; the list of tokens ends here."""
        ...

    def held_chars(self, *, continued: bool) -> int:
        """Returns the characters that are held back. An unfinished one is left out where `continued`."""
        ...

    def own(self, piece: str | bytes) -> str | bytes:
        """Returns the piece's own part of a text, wherever in a text it stands; bytes where it is part of a character."""
        ...


class _Immediate:
    """Base of the stages that hold nothing back."""

    def flush(self) -> list[str]:
        return []

    def held_chars(self, *, continued: bool) -> int:
        return 0


class Replaced(_Immediate):
    """Replace, on each piece by itself."""

    def __init__(self, decoder: decoders.Decoder) -> None:
        self._decoder = decoder

    def push(self, piece: str) -> list[str]:
        return [self._decoder.decode([piece])]

    def own(self, piece: str | bytes) -> str | bytes:
        return self._decoder.decode([piece]) if isinstance(piece, str) else piece


class Placed(_Immediate):
    """Metaspace and WordPiece, on each piece by itself. They treat the first one in another way than the rest."""

    def __init__(self, decoder: decoders.Decoder, own_pattern: str, own_text: str) -> None:
        """Takes the decoder, and what replaces a pattern in a token's own text."""
        self._decoder = decoder
        self._own_pattern = re.compile(own_pattern)
        self._own_text = own_text
        self._first = True

    def push(self, piece: str) -> list[str]:
        lead = "" if self._first else _LEAD
        self._first = False
        return [self._decoder.decode([lead, piece] if lead else [piece])[len(lead) :]]

    def own(self, piece: str | bytes) -> str | bytes:
        return self._own_pattern.sub(self._own_text, piece) if isinstance(piece, str) else piece


class Spaced(_Immediate):
    """Pieces joined by spaces, as tokenizers without a decoder do."""

    def __init__(self) -> None:
        self._first = True

    def push(self, piece: str) -> list[str]:
        first, self._first = self._first, False
        return [piece if first else " " + piece]

    def own(self, piece: str | bytes) -> str | bytes:
        return piece


class WordEnds:
    """BPEDecoder: a suffix ends a word, and is a space unless the text ends there."""

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._if_more, self._if_last = "", ""

    def push(self, piece: str) -> list[str]:
        before = self._if_more
        certain, suffix, rest = piece.partition(self._suffix)
        self._if_more, self._if_last = ((suffix + rest).replace(self._suffix, space) for space in (" ", ""))
        return [before + certain]

    def flush(self) -> list[str]:
        return [self._if_last]

    def held_chars(self, *, continued: bool) -> int:
        return len(self._if_more)

    def own(self, piece: str | bytes) -> str | bytes:
        return piece.replace(self._suffix, " ") if isinstance(piece, str) else piece


class Stripped(_Immediate):
    """Strip at the start: up to `start` characters `content` are left out, of each piece or of all of them as one text."""

    def __init__(self, content: str, start: int, *, one_text: bool) -> None:
        self._content = content
        self._start = start
        self._one_text = one_text
        self._left_to_skip = start

    def push(self, piece: str) -> list[str]:
        if not self._one_text:
            self._left_to_skip = self._start
        at = 0
        while self._left_to_skip and piece[at:].startswith(self._content):
            at += 1
            self._left_to_skip -= 1
        if at < len(piece):
            self._left_to_skip = 0
        return [piece[at:]]

    def own(self, piece: str | bytes) -> str | bytes:
        return piece


class ByteRuns:
    """ByteFallback: a run of byte tokens is UTF-8 as a whole, else one U+FFFD for each of its bytes.

    A later byte can change all characters of its run, which therefore waits for its end. `MAX_RUN_BYTES` bytes are decided by
    themselves, up to their last unfinished character: nothing is held for longer, and each byte is decoded once."""

    def __init__(self) -> None:
        self._run = b""

    def push(self, piece: str) -> list[str]:
        byte = self.own(piece)
        if isinstance(byte, str):
            return [*self.flush(), piece]
        self._run += byte
        if len(self._run) < MAX_RUN_BYTES:
            return []
        certain = len(self._run) - unfinished_bytes(self._run)
        decided, self._run = self._run[:certain], self._run[certain:]
        return list(_run_pieces(decided))

    def flush(self) -> list[str]:
        run, self._run = self._run, b""
        return list(_run_pieces(run))

    def held_chars(self, *, continued: bool) -> int:
        end = len(self._run) - (unfinished_bytes(self._run) if continued else 0)
        return sum(map(len, _run_pieces(self._run[:end])))

    def own(self, piece: str | bytes) -> str | bytes:
        found = _BYTE_TOKEN.fullmatch(piece) if isinstance(piece, str) else None
        return bytes([int(found[1], 16)]) if found else piece


class ByteCharacters:
    """ByteLevel: each character of a token stands for a byte, and the bytes are UTF-8 with one U+FFFD for each broken part."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, piece: str) -> list[str]:
        return [self._decoder.decode(self.own(piece))]

    def flush(self) -> list[str]:
        return [self._decoder.decode(b"", final=True)]

    def held_chars(self, *, continued: bool) -> int:
        unfinished, _ = self._decoder.getstate()
        return 1 if unfinished and not continued else 0

    def own(self, piece: str | bytes) -> bytes:
        if isinstance(piece, bytes):
            return piece
        try:
            return bytes([BYTE_OF_CHARACTER[character] for character in piece])
        except KeyError:  # an added token, which is plain text
            return piece.encode()


def unfinished_bytes(data: bytes) -> int:
    """Returns how many bytes at the end begin a character that more bytes could complete, 0 to 3."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(data[-4:])
    return len(decoder.getstate()[0])


def _run_pieces(run: bytes) -> Iterator[str]:
    if run:
        try:
            yield run.decode()
        except UnicodeDecodeError:
            yield from "\ufffd" * len(run)


def _byte_characters() -> dict[str, int]:
    """The alphabet of byte-level tokenizers: printable characters of Latin-1 are themselves, the rest begin at U+0100."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(0x100, 0x200))
    return {chr(byte) if byte in printable else chr(next(others)): byte for byte in range(256)}


BYTE_OF_CHARACTER = _byte_characters()
