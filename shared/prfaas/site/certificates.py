"""A small certificate authority for deployments that have none: it signs the certificates of the sites' servers.

Its key stays with the operator of the deployment. A site gets its own key, its certificate and the authority's certificate.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from prfaas.secrets.secret_files import make_private_directory, write_secret

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 365
_CLOCK_SKEW = datetime.timedelta(minutes=5)


class AuthorityError(Exception):
    """A certificate cannot be signed; the message is a sentence without its point."""


class Certificate(NamedTuple):
    """PEM files of one server."""

    certificate_file: Path
    key_file: Path
    ca_file: Path

    def hosts(self) -> list[str]:
        """Returns the names and addresses that the certificate is for."""
        names = self._read().extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [str(name.value) for name in names]

    def ends_at(self) -> datetime.datetime:
        return self._read().not_valid_after_utc

    def _read(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate_file.read_bytes())


class Authority:
    """Owns `directory`: the authority's key and certificate, made when they are first needed."""

    def __init__(self, directory: Path) -> None:
        self.certificate_file = directory / "ca.pem"
        self._key_file = directory / "ca-key.pem"
        self._directory = directory

    def ensure_certificate(self, directory: Path, hosts: Sequence[str]) -> Certificate:
        """Returns the certificate of a server for these names and addresses; signs one when there is none in `directory`.

        Raises AuthorityError."""
        files = Certificate(directory / "server.pem", directory / "server-key.pem", directory / "ca.pem")
        if not all(file.exists() for file in files):
            self.sign(directory, hosts)
        return files

    def sign(self, directory: Path, hosts: Sequence[str]) -> None:
        """Writes a new key and certificate. A server takes them with its next reload; connections that are open stay.

        Raises AuthorityError."""
        authority, authority_key = self._load()
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            _builder(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])]), authority.subject, key, now, CERTIFICATE_DAYS
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            # A site's server is the client of the sites that it dials.
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
            )
            .add_extension(x509.SubjectAlternativeName([_alternative_name(host) for host in hosts]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        make_private_directory(directory)
        write_secret(directory / "server-key.pem", _private_pem(key))
        write_secret(directory / "server.pem", certificate.public_bytes(serialization.Encoding.PEM))
        write_secret(directory / "ca.pem", self.certificate_file.read_bytes())

    def _load(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        if not (self._key_file.exists() and self.certificate_file.exists()):
            if self.certificate_file.exists():
                # A new authority would end the trust in every certificate of the old one.
                raise AuthorityError(f"{self._key_file} is not there, and without the authority's key nothing can be signed")
            self._make()
        key = serialization.load_pem_private_key(self._key_file.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey), "this class writes no other keys"
        return x509.load_pem_x509_certificate(self.certificate_file.read_bytes()), key

    def _make(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "prfaas sites")])
        certificate = (
            _builder(name, name, key, datetime.datetime.now(datetime.UTC), AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        make_private_directory(self._directory)
        # The certificate last: without it the authority counts as not made.
        write_secret(self._key_file, _private_pem(key))
        write_secret(self.certificate_file, certificate.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
