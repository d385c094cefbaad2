"""Messages may grow: a process ignores the fields that it does not know, and takes the default for those that it is not sent.

The version before is a set of messages in its own bytes (version_before.json). tests/e2e/test_version_before.py runs its
processes beside those of today."""

from typing import Any

import msgspec
import pytest

from prfaas.contracts.to_decode import SAMPLING_LEVEL, Generate, Sampling, sampling_level
from prfaas.contracts.wire import BadMessageError, decode
from tests.contracts import version_before
from tests.contracts.samples import Plain, fields, messages, sample

MESSAGES = messages()
BEFORE = version_before.written()
ADDED = {"added_later": [1, {"a": None}], "another-later": {"b": "x"}}
EVERY_MESSAGE = pytest.mark.parametrize("name", sorted(MESSAGES))
EVERY_OLD_MESSAGE = pytest.mark.parametrize("name", sorted(BEFORE))


def read(message: Plain, name: str) -> Any:
    return decode(msgspec.msgpack.encode(message), MESSAGES[name])


@EVERY_MESSAGE
def test_fields_of_a_later_version_are_ignored_at_every_depth(name: str) -> None:
    config = MESSAGES[name].__struct_config__
    assert not config.array_like, "a field of an array is known by its place"
    grown = sample(MESSAGES[name], added=ADDED)
    assert grown.items() >= ADDED.items()
    assert read(grown, name) == read(sample(MESSAGES[name]), name)


@EVERY_MESSAGE
def test_a_missing_field_has_its_default_and_a_missing_required_one_is_a_named_error(name: str) -> None:
    whole = sample(MESSAGES[name])
    least = read(sample(MESSAGES[name], whole=False), name)
    for field in msgspec.structs.fields(MESSAGES[name]):
        without = {key: value for key, value in whole.items() if key != field.encode_name}
        if field.required:
            with pytest.raises(BadMessageError, match=f"is no {name}.*{field.encode_name}"):
                read(without, name)
        else:
            assert getattr(read(without, name), field.name) == getattr(least, field.name)


@EVERY_OLD_MESSAGE
def test_a_message_of_the_version_before_means_the_same_today(name: str) -> None:
    assert name in MESSAGES, f"{name} is gone: a process of the version before still sends it"
    for written in BEFORE[name]:
        # What was sent comes back: no field was taken away, renamed, or given another type.
        sent: Plain = msgspec.msgpack.decode(written)
        today: Plain = msgspec.msgpack.decode(msgspec.msgpack.encode(decode(written, MESSAGES[name])))
        assert _subset(sent, today), (sent, today)


@EVERY_OLD_MESSAGE
def test_the_version_before_finds_all_that_it_requires_in_a_message_of_today(name: str) -> None:
    required = set(msgspec.msgpack.decode(BEFORE[name].least))
    always_sent = {field for field, is_required in fields(MESSAGES[name]).items() if is_required}
    if not MESSAGES[name].__struct_config__.omit_defaults:
        always_sent = set(fields(MESSAGES[name]))
    tag = MESSAGES[name].__struct_config__.tag_field
    assert required <= always_sent | ({tag} if tag else set())


def _subset(sent: Any, today: Any) -> bool:
    """Tells whether all that was sent is there today, at every depth."""
    if isinstance(sent, dict):
        return isinstance(today, dict) and all(key in today and _subset(value, today[key]) for key, value in sent.items())
    if isinstance(sent, list):
        return isinstance(today, list) and len(sent) == len(today) and all(map(_subset, sent, today))
    return bool(sent == today)


@pytest.mark.parametrize(
    ("sent", "today", "same"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"b": 1}, False),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}]}, True),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, False),
        ({"a": [1]}, {"a": [1, 2]}, False),
        ({"a": {}}, {"a": 1}, False),
    ],
)
def test_what_was_sent_is_looked_for_at_every_depth(sent: Plain, today: Plain, same: bool) -> None:
    assert _subset(sent, today) == same


def test_a_wish_that_the_version_before_does_not_know_needs_a_process_that_says_it_does() -> None:
    known = set(msgspec.msgpack.decode(BEFORE["Generate"].whole)["sampling"])
    plain = Sampling(max_tokens=1)
    assert sampling_level(plain) == 0
    whole = decode(msgspec.msgpack.encode(sample(Generate)), Generate).sampling
    for field in msgspec.structs.fields(Sampling):
        other = getattr(whole, field.name)
        if other == field.default:
            other += 0.5
        wish = msgspec.structs.replace(plain, **{field.name: other})
        assert sampling_level(wish) == (0 if field.name in known else SAMPLING_LEVEL), field.name
