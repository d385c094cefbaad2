"""Keys of a world's sites, for the real JobSeals, which reads them from files."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from load.worlds.plan import HOME
from prfaas.sealing.config import SealingConfig
from prfaas.sealing.job_seal import JobSeals
from prfaas.sealing.keys import PrivateKey


@cache
def home_seals(sealed: tuple[str, ...]) -> JobSeals:
    """Returns what decode workers seal with for prefill sites whose jobs are sealed."""
    return JobSeals(SealingConfig(private_key_file=_private(HOME), peers={site: _public(site) for site in sealed}))


@cache
def prefill_seals(site: str, sealed: tuple[str, ...]) -> JobSeals:
    """Returns what the prefill workers of a site open jobs with."""
    peers = {HOME: _public(HOME)} if site in sealed else {}
    return JobSeals(SealingConfig(private_key_file=_private(site), peers=peers))


@cache
def _folder() -> "TemporaryDirectory[str]":
    """Folder of all key files. It goes with the process: worlds of one process share their keys."""
    return TemporaryDirectory(prefix="worlds-keys-")


@cache
def _key(site: str) -> PrivateKey:
    return PrivateKey.generate()


@cache
def _private(site: str) -> str:
    return _written(f"{site}.key", _key(site).line)


@cache
def _public(site: str) -> str:
    return _written(f"{site}.pub", _key(site).public.line)


def _written(name: str, line: str) -> str:
    path = Path(_folder().name) / name
    path.write_text(f"{line}\n", encoding="ascii")
    return str(path)
