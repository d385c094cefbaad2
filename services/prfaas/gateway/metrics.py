"""The gateway's Prometheus metrics: vLLM's names where they exist, so that its dashboards work, and our own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# From OpenTelemetry's GenAI conventions; TTFT's standard end of 10 s is too low for a long prompt over a WAN.
_TTFT_BUCKETS_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_REQUEST_BUCKETS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_PROMPT_BUCKETS_TOKENS = (1, 16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)


class GatewayMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        model = ["model_name"]
        self.running = Gauge("vllm:num_requests_running", "Requests whose tokens come.", model, registry=registry)
        self.waiting = Gauge("vllm:num_requests_waiting", "Requests that wait for their first token.", model, registry=registry)
        self.ttft_s = Histogram(
            "vllm:time_to_first_token_seconds",
            "From the request to its first token.",
            model,
            buckets=_TTFT_BUCKETS_S,
            registry=registry,
        )
        self.inter_token_s = Histogram(
            "vllm:inter_token_latency_seconds",
            "Between two tokens of an answer.",
            model,
            buckets=_TOKEN_BUCKETS_S,
            registry=registry,
        )
        self.request_s = Histogram(
            "vllm:e2e_request_latency_seconds",
            "From the request to the end of its answer.",
            model,
            buckets=_REQUEST_BUCKETS_S,
            registry=registry,
        )
        self.request_prompt_tokens = Histogram(
            "vllm:request_prompt_tokens", "Prompt length.", model, buckets=_PROMPT_BUCKETS_TOKENS, registry=registry
        )
        self.prompt_tokens = Counter("vllm:prompt_tokens", "Prompt tokens.", model, registry=registry)
        self.generation_tokens = Counter("vllm:generation_tokens", "Generated tokens.", model, registry=registry)
        self.success = Counter("vllm:request_success", "Finished answers.", [*model, "finished_reason"], registry=registry)
        self.requests = Counter(
            "prfaas_gateway_requests",
            "Requests by HTTP status and by outcome (`none`: no prefill was done). Status 499: the client left.",
            ["endpoint", "status", "outcome"],
            registry=registry,
        )
        self.stream_errors = Counter(
            "prfaas_gateway_stream_errors",
            "Answers that broke off with an error after their status 200.",
            ["code"],
            registry=registry,
        )
        self.stray_events = Counter(
            "prfaas_gateway_stray_events", "Events of requests that are not in flight.", registry=registry
        )
        self.tokenize_s = Histogram(
            "prfaas_gateway_tokenize_seconds", "Chat template and tokenizer.", buckets=_TTFT_BUCKETS_S, registry=registry
        )


class ModelMetrics:
    """One model's children, bound once: a look-up per token would cost more than the counting."""

    def __init__(self, metrics: GatewayMetrics, name: str) -> None:
        self.name = name
        self.running = metrics.running.labels(name)
        self.waiting = metrics.waiting.labels(name)
        self.ttft_s = metrics.ttft_s.labels(name)
        self.inter_token_s = metrics.inter_token_s.labels(name)
        self.request_s = metrics.request_s.labels(name)
        self.request_prompt_tokens = metrics.request_prompt_tokens.labels(name)
        self.prompt_tokens = metrics.prompt_tokens.labels(name)
        self.generation_tokens = metrics.generation_tokens.labels(name)
        self.success = metrics.success
