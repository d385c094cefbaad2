import re

import pytest

from prfaas.secrets.api_keys import make_key, parse_key, tenant_label


def test_a_key_is_long_random_and_known_by_its_public_part() -> None:
    keys = [make_key() for _ in range(100)]
    assert len({key.text for key in keys}) == 100
    for key in keys:
        secret = re.fullmatch(r"sk-prfaas-[0-9a-f]{8}-([A-Za-z0-9_-]{43})", key.text)
        assert secret is not None, "43 characters of base64 are 256 bits"
        assert parse_key(key.text) == key
        assert secret[1] not in key.id and key.id in key.text


def test_only_the_whole_key_matches_its_hash() -> None:
    key, other = make_key(), make_key()
    assert key.matches(key.sha256)
    same_id = parse_key(f"sk-prfaas-{key.id}-{other.text[-43:]}")
    assert same_id is not None and not same_id.matches(key.sha256)


@pytest.mark.parametrize("text", [
    "", "sk-prfaas", "password", "sk-prfaas-0123abcd-short", f"sk-prfaas-0123abcd-{'é' * 43}", f"sk-prfaas-0123ABCD-{'a' * 43}",
    f"sk-prfaas-0123abcd-{'a' * 43}\n", f" sk-prfaas-0123abcd-{'a' * 43}", f"sk-prfaas-0123abcd-{'a' * 44}",
])  # fmt: skip
def test_text_that_could_be_guessed_is_no_key(text: str) -> None:
    assert parse_key(text) is None


def test_a_label_does_not_show_the_tenants_name() -> None:
    assert tenant_label("acme") == tenant_label("acme") != tenant_label("acme2")
    assert "acme" not in tenant_label("acme")
