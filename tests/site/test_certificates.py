"""The authority's certificates, as TLS itself judges them."""

import ssl
import stat
from pathlib import Path

import pytest

from prfaas.site.certificates import Authority, Certificate

HOSTS = ("site-a.example", "10.1.2.3")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def shaken_hands(server: Certificate, client: Certificate, trusted: Path, host: str) -> str:
    """Version of TLS on which both agree. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(server.certificate_file, server.key_file)
    server_side.verify_mode = ssl.CERT_REQUIRED
    server_side.load_verify_locations(trusted)
    client_side = ssl.create_default_context(cafile=str(trusted))
    client_side.load_cert_chain(client.certificate_file, client.key_file)
    ends = (
        client_side.wrap_bio(to_client, to_server, server_hostname=host),
        server_side.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[0].version() or ""


@pytest.mark.parametrize("host", HOSTS)
def test_two_sites_of_one_authority_trust_each_other(authority: Authority, tmp_path: Path, host: str) -> None:
    dialled = authority.ensure_certificate(tmp_path / "a", HOSTS)
    dialling = authority.ensure_certificate(tmp_path / "b", ("site-b.example",))
    assert shaken_hands(dialled, dialling, authority.certificate_file, host) == "TLSv1.3"


def test_another_name_and_another_authority_are_refused(authority: Authority, tmp_path: Path) -> None:
    ours = authority.ensure_certificate(tmp_path / "a", HOSTS)
    other = Authority(tmp_path / "other").ensure_certificate(tmp_path / "b", HOSTS)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shaken_hands(ours, ours, authority.certificate_file, "site-c.example")
    for server, client in ((other, ours), (ours, other)):
        with pytest.raises(ssl.SSLError):
            shaken_hands(server, client, authority.certificate_file, HOSTS[0])


def test_a_certificate_is_kept_until_a_new_one_is_signed(authority: Authority, tmp_path: Path) -> None:
    first = authority.ensure_certificate(tmp_path / "a", HOSTS)
    content = first.certificate_file.read_bytes()
    assert authority.ensure_certificate(tmp_path / "a", HOSTS).certificate_file.read_bytes() == content
    authority.sign(tmp_path / "a", HOSTS)
    assert first.certificate_file.read_bytes() != content
    assert shaken_hands(first, first, authority.certificate_file, HOSTS[0]) == "TLSv1.3", "the authority is the same"


def test_keys_are_for_the_owner_only(authority: Authority, tmp_path: Path) -> None:
    files = authority.ensure_certificate(tmp_path / "a", HOSTS)
    secret = (files.key_file, authority.certificate_file.with_name("ca-key.pem"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
