"""Sealed jobs: only the prefill site's workers read one, and only decode workers of the named site can have made it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.contracts.kv import KVTransfer, PrefixSource
from prfaas.contracts.to_prefill import JobSecret, PrefillJob
from prfaas.contracts.wire import decode, encode
from prfaas.sealing.author_seal import SealError
from prfaas.sealing.config import SealingConfig
from prfaas.sealing.job_seal import JobSeals, seal, unseal
from prfaas.sealing.keys import PrivateKey
from tests.sealing.jobs import JOB, PROMPT, SECRET

HOME, FAR, OTHER = (PrivateKey.generate() for _ in range(3))
OTHERS: dict[str, Any] = {
    "request_id": "s",
    "model": "n",
    "reply_to": "prfaas.home.decode.d1.prefill",
    "decode_site": "away",
    "timeout_s": 11.0,
    "worker": "p7",
    "priority": -1,
    "admitted": True,
    "pull": PrefixSource(site="far", worker="p1", tokens=32, timeout_s=1.0),
}
OTHER_TRANSFERS: dict[str, Any] = {
    "transfer_id": "u",
    "attempt": 2,
    "bucket": "kv-home--other",
    "nuid": "o",
    "prefill_tokens": 41,
    "from_token": 9,
    "lossy": True,
    "fingerprint": "g",
}


def write_keys(path: Path, *keys: PrivateKey, public: bool = False) -> str:
    path.write_text("\n".join((key.public if public else key).line for key in keys))
    return str(path)


def seals(directory: Path, own: PrivateKey, **peers: PrivateKey) -> JobSeals:
    private = write_keys(directory / f"{own.key_id.hex()}.key", own)
    public = {site: write_keys(directory / f"{site}.pub", key, public=True) for site, key in peers.items()}
    return JobSeals(SealingConfig(private_key_file=private, peers=public))


def test_what_was_sealed_opens_and_nothing_of_it_is_to_be_seen() -> None:
    job = msgspec.structs.replace(JOB, cache_scope="group")
    sealed = seal(HOME, FAR.public, job, SECRET)
    assert (sealed.token_ids, sealed.tenant, sealed.cache_scope) == (b"", "", "")
    message = encode(sealed)
    for hidden in (PROMPT[:16], SECRET[:16], b"acme", b"group"):
        assert hidden in encode(job) + SECRET and hidden not in message
    opened = unseal(FAR, HOME.public, decode(message, PrefillJob))
    assert opened == JobSecret(token_ids=PROMPT, tenant="acme", cache_scope="group", kv_secret=SECRET)


def test_every_open_field_is_covered() -> None:
    """A field that is added to a job must be added to what its seal covers, or hidden in it."""
    hidden, set_on_the_way = {"token_ids", "tenant", "cache_scope", "sealed", "transfer"}, {"waited_s"}
    assert set(PrefillJob.__struct_fields__) - hidden - set_on_the_way == set(OTHERS)
    # Whoever changes the way of frames changes nothing of them, and only a worker of the decode worker's own site takes that way.
    assert set(KVTransfer.__struct_fields__) - {"direct_inbox"} == set(OTHER_TRANSFERS)
    sealed = seal(HOME, FAR.public, JOB, SECRET)
    forged = [msgspec.structs.replace(sealed, **{name: value}) for name, value in OTHERS.items()]
    for name, value in OTHER_TRANSFERS.items():
        forged.append(msgspec.structs.replace(sealed, transfer=msgspec.structs.replace(JOB.transfer, **{name: value})))
    for job in forged:
        with pytest.raises(SealError, match="seal is broken"):
            unseal(FAR, HOME.public, job)


@given(st.data())
def test_no_bit_of_the_seal_can_be_changed(data: st.DataObject) -> None:
    sealed = bytearray(seal(HOME, FAR.public, JOB, SECRET).sealed)
    fault = data.draw(st.sampled_from(["flip", "cut", "longer"]))
    match fault:
        case "flip":
            bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
            sealed[bit // 8] ^= 1 << bit % 8
        case "cut":
            del sealed[data.draw(st.integers(0, len(sealed) - 1)) :]
        case "longer":
            sealed += data.draw(st.binary(min_size=1, max_size=40))
    with pytest.raises(SealError):
        unseal(FAR, HOME.public, msgspec.structs.replace(JOB, token_ids=b"", tenant="", sealed=bytes(sealed)))


def test_a_job_sealed_by_another_in_the_names_of_the_site_is_refused(tmp_path: Path) -> None:
    """A broker knows both public keys, and can seal a prompt and a secret of its own for the prefill site."""
    forged = seal(OTHER, FAR.public, JOB, SECRET)
    named = msgspec.structs.replace(forged, sealed=forged.sealed[:8] + HOME.key_id + forged.sealed[16:])
    worker = seals(tmp_path, FAR, home=HOME)
    for job in (forged, named):
        with pytest.raises(SealError):
            worker.open(job)


def test_a_job_sealed_for_another_site_does_not_open() -> None:
    with pytest.raises(SealError):
        unseal(FAR, HOME.public, seal(HOME, OTHER.public, JOB, SECRET))


def test_a_prompt_beside_the_seal_is_refused() -> None:
    sealed = seal(HOME, FAR.public, JOB, SECRET)
    for changes in ({"token_ids": PROMPT}, {"tenant": "other"}, {"cache_scope": "other"}):
        with pytest.raises(SealError, match="beside its seal"):
            unseal(FAR, HOME.public, msgspec.structs.replace(sealed, **changes))


def test_a_worker_takes_sealed_jobs_from_its_peers_and_plain_ones_from_others(tmp_path: Path) -> None:
    decode_worker, prefill_worker = seals(tmp_path, HOME, far=FAR), seals(tmp_path, FAR, home=HOME)
    secret = decode_worker.new_secret("far")
    assert secret is not None and decode_worker.new_secret("far") != secret
    assert decode_worker.new_secret("elsewhere") is None
    sealed = decode_worker.seal("far", JOB, secret)
    assert prefill_worker.open(sealed) == JobSecret(token_ids=PROMPT, tenant="acme", kv_secret=secret)
    with pytest.raises(SealError, match="takes sealed ones only from site home"):
        prefill_worker.open(JOB)
    plain = msgspec.structs.replace(JOB, decode_site="away")
    assert prefill_worker.open(plain) == JobSecret(token_ids=PROMPT, tenant="acme")
    with pytest.raises(SealError, match="no key of site away"):
        prefill_worker.open(msgspec.structs.replace(sealed, decode_site="away"))


def test_keys_are_rotated_while_jobs_flow(tmp_path: Path) -> None:
    """The receiving side learns the new key first, and forgets the old one last."""
    new = PrivateKey.generate()
    decode_worker, prefill_worker = seals(tmp_path, HOME, far=FAR), seals(tmp_path, FAR, home=HOME)

    def flows() -> bool:
        job = decode_worker.seal("far", JOB, SECRET)
        return prefill_worker.open(job).kv_secret == SECRET

    private, public = tmp_path / f"{FAR.key_id.hex()}.key", tmp_path / "far.pub"
    queued = decode_worker.seal("far", JOB, SECRET)
    for file, keys in ((private, (FAR, new)), (public, (new, FAR)), (private, (new, FAR))):
        write_keys(file, *keys, public=file == public)
        assert flows()
    assert prefill_worker.open(queued).kv_secret == SECRET, "sealed with the old key, and still in the queue"
    write_keys(public, new, public=True)
    write_keys(private, new)
    assert flows()
    with pytest.raises(SealError, match="does not hold"):
        prefill_worker.open(queued)


def test_a_configuration_with_peers_needs_a_key_of_its_own() -> None:
    with pytest.raises(ValueError, match="private-key-file"):
        SealingConfig(peers={"far": "far.pub"})


@pytest.mark.parametrize("key", ["private-key-file", "peers.far"])
def test_a_key_file_that_cannot_be_read_is_found_with_the_configuration(tmp_path: Path, key: str) -> None:
    good, bad = write_keys(tmp_path / "good", HOME), str(tmp_path / "none")
    private, peer = (bad, good) if key == "private-key-file" else (good, bad)
    with pytest.raises(ValueError, match=f"`{key}` cannot be used: .*none"):
        SealingConfig(private_key_file=private, peers={"far": peer})
