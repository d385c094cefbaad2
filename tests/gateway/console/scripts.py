"""Scripts of a decode worker for what the console shows."""

from prfaas.contracts.kv import TransferReport
from prfaas.contracts.to_decode import Generate
from prfaas.contracts.to_gateway import Finished, PrefillTimes
from prfaas.contracts.wire import encode
from tests.gateway.scripted_site import Emitter


async def answer_in_full(generate: Generate, emit: Emitter) -> None:
    await emit.started()
    for text in ("Be", "cause", " of", " <b>Rayleigh</b>"):
        await emit.tokens(text)
    done = Finished(
        request_id=generate.request_id, sequence=emit.sequence, finish_reason="stop", text="", completion_tokens=4,
        transfer=TransferReport(bytes=4000, frames=6, attempts=1, duration_s=0.001, arrival=((0.0005, 1000), (0.001, 4000))),
        prefill=PrefillTimes(residual_s=0.0001, prefill_s=0.001, queue_s=0.0005, chunks=((0.0005, 500), (0.001, 1000))),
    )  # fmt: skip
    await emit.raw(encode(done))
