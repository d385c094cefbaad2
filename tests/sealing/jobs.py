"""A job as it is before it is sealed."""

from prfaas.contracts.kv import KVTransfer
from prfaas.contracts.to_prefill import PrefillJob
from prfaas.contracts.wire import pack_tokens

SECRET = bytes(range(32))
PROMPT = pack_tokens(range(1000, 1040))
JOB = PrefillJob(
    request_id="r",
    model="m",
    transfer=KVTransfer(
        transfer_id="t", attempt=1, bucket="kv-home--far", nuid="n", prefill_tokens=40, from_token=8, fingerprint="f"
    ),
    token_ids=PROMPT,
    reply_to="prfaas.home.decode.d0.prefill",
    decode_site="home",
    tenant="acme",
    timeout_s=10.0,
)
