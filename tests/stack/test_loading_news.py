import pytest

from prfaas.stack.loading_news import loading_news


def test_loading_is_told_before_and_after_and_nothing_else_is() -> None:
    begun = {"event": "engine_loading", "model": "m", "engine": "torch", "threads": 2}
    assert loading_news(begun) == "loads m (torch, threads: 2)"
    done = {"event": "engine_loaded", "model": "m", "took_s": 3.14, "dtype": "bfloat16", "kv_bytes_per_token": 23040}
    assert loading_news(done) == "has loaded m in 3.1 s; a token has 23,040 bytes of KV in bfloat16"
    assert loading_news({"event": "ready"}) == ""


@pytest.mark.parametrize("event", ["engine_loading", "engine_loaded"])
def test_an_entry_of_another_version_is_no_news(event: str) -> None:
    assert loading_news({"event": event}) == ""
    loaded = {"event": event, "model": "m", "engine": "torch", "threads": 1, "took_s": "1 s", "kv_bytes_per_token": None}
    assert loading_news(loaded | {"dtype": "float32", "threads": 1}) == (
        "" if event == "engine_loaded" else "loads m (torch, threads: 1)"
    )
