"""One answer followed token by token."""

from pathlib import Path

import pytest

from prfaas.engine.emulated_model import EOS_TOKEN_ID
from prfaas.engine.grammar import forms
from prfaas.engine.grammar.forms import GrammarError
from prfaas.engine.grammar.matcher import GrammarTokenizer
from prfaas.engine.row_masks import allowed_ids
from tests.engine.grammar.following import bytes_at


def test_the_mask_has_what_may_come_and_at_the_end_the_end_token_alone(tmp_path: Path) -> None:
    matcher = bytes_at(tmp_path).matcher(forms.choice(["ab", "ac"]))
    seen = []
    for byte in b"ac":
        seen.append(bytes(allowed_ids(matcher.mask(), EOS_TOKEN_ID + 1)))
        matcher.take(byte)
    assert seen == [b"a", b"bc"]
    assert allowed_ids(matcher.mask(), EOS_TOKEN_ID + 1) == [EOS_TOKEN_ID]
    matcher.take(EOS_TOKEN_ID)


def test_a_token_that_may_not_come_is_an_error(tmp_path: Path) -> None:
    matcher = bytes_at(tmp_path).matcher(forms.choice(["ab"]))
    with pytest.raises(GrammarError, match="cannot be followed"):
        matcher.take(ord("x"))


def test_a_grammar_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GrammarError, match="cannot be followed"):
        bytes_at(tmp_path).matcher("start: other")


def test_a_model_without_an_end_token_follows_no_grammar(tmp_path: Path) -> None:
    bytes_at(tmp_path)
    with pytest.raises(GrammarError, match="no end token"):
        GrammarTokenizer(tmp_path / "tokenizer.json", EOS_TOKEN_ID + 1, []).matcher(forms.choice(["a"]))


def test_a_tokenizer_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GrammarError, match="tokenizer"):
        GrammarTokenizer(tmp_path / "none.json", 4, [0]).matcher(forms.choice(["a"]))


def test_masks_are_as_long_as_the_model_has_logits(tmp_path: Path) -> None:
    bytes_at(tmp_path)
    tokenizer = GrammarTokenizer(tmp_path / "tokenizer.json", 300, [EOS_TOKEN_ID])
    mask = tokenizer.matcher(forms.choice(["a"])).mask()
    assert allowed_ids(mask, 300) == [ord("a")]
