"""Names of spans and attributes. The GenAI conventions are in development and their generated constants deprecated.

Sources: OpenTelemetry semantic-conventions-genai (gen_ai.*), OpenTelemetry semantic conventions (service.*, error.*);
prfaas.* is ours.
"""

# Spans. The root is named by chat_span_name; a request has about ten, and none per token or frame.
TOKENIZE = "tokenize"
"""Gateway: chat template and tokenizer."""
PLACE = "place"
"""Gateway's request to the scheduler, and the scheduler's answer within."""
GENERATE = "generate"
"""Decode worker: the request's arrival to its last token."""
PREFILL_QUEUE = "prefill_queue"
"""Prefill worker: the job's entry in the work queue to the worker's taking it."""
PREFILL = "prefill"
KV_SEND = "kv_send"
"""Prefill worker: the first frame to the acknowledged manifest."""
KV_TRANSFER = "kv_transfer"
"""Decode worker: the opened receiver to the whole cache verified."""
DECODE = "decode"
"""Decode worker: joining the batch to the last token."""
STREAM = "stream"
"""Gateway: the first to the last event sent to the client."""

# Resource.
SERVICE_NAME = "service.name"
SERVICE_INSTANCE_ID = "service.instance.id"
SITE = "prfaas.site"

# GenAI.
OPERATION_NAME = "gen_ai.operation.name"
OPERATION_CHAT = "chat"
OPERATION_TEXT_COMPLETION = "text_completion"
PROVIDER_NAME = "gen_ai.provider.name"
PROVIDER = "prfaas"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_TOP_P = "gen_ai.request.top_p"
REQUEST_PRESENCE_PENALTY = "gen_ai.request.presence_penalty"
REQUEST_FREQUENCY_PENALTY = "gen_ai.request.frequency_penalty"
REQUEST_SEED = "gen_ai.request.seed"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_STOP_SEQUENCES = "gen_ai.request.stop_sequences"
RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
RESPONSE_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
"""All prompt tokens, those read from a cache included."""
USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ_INPUT_TOKENS = "gen_ai.usage.cache_read.input_tokens"

# General.
ERROR_TYPE = "error.type"

# Ours.
REQUEST_ID = "prfaas.request_id"
TRANSFER_ID = "prfaas.transfer_id"
ATTEMPT = "prfaas.attempt"
WORKER = "prfaas.worker"
PREFILL_SITE = "prfaas.prefill.site"
DECODE_SITE = "prfaas.decode.site"
PREFILL_TOKENS = "prfaas.prefill.tokens"
PREFILL_CACHED_TOKENS = "prfaas.prefill.cached_tokens"
PREFILL_PULLED_TOKENS = "prfaas.prefill.pulled_tokens"
PREFILL_QUEUE_S = "prfaas.prefill.queue_s"
OUTCOME = "prfaas.outcome"
ROUTE_OFFLOADED = "prfaas.route.offloaded"
ROUTE_REASON = "prfaas.route.reason"
KV_BYTES = "prfaas.kv.bytes"
KV_FRAMES = "prfaas.kv.frames"
KV_LOSSY_FRAMES = "prfaas.kv.lossy_frames"
"""Frames that came in 8 bits."""
KV_GOODPUT = "prfaas.kv.goodput_bytes_per_s"
KV_OVERLAP_RATIO = "prfaas.kv.overlap_ratio"
"""Share of the transfer's duration that lay within prefill: 1 - residual / duration."""
KV_RESIDUAL_S = "prfaas.kv.residual_s"
"""End of prefill to the whole verified: what did not overlap."""


def chat_span_name(operation: str, model: str) -> str:
    """GenAI convention: `{gen_ai.operation.name} {gen_ai.request.model}`."""
    return f"{operation} {model}"
