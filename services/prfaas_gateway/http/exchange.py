"""One request of the endpoints that generate, from its body to its last token."""

import time
import uuid
from collections.abc import Sequence
from functools import partial

from msgspec.structs import replace

from prfaas.contracts.to_decode import Sampling
from prfaas.contracts.to_gateway import GenerateEvent, Started
from prfaas.telemetry import names
from prfaas.telemetry.logs import request_logs
from prfaas.telemetry.tracing import extract, trace_id
from prfaas.telemetry.wall_clock import unix_s
from prfaas_gateway.chat_template import PLAIN, Rendering
from prfaas_gateway.dialect import Asked
from prfaas_gateway.dialects import DIALECTS
from prfaas_gateway.generation import Generation
from prfaas_gateway.http.arrival import Arrival
from prfaas_gateway.http.deadline import Deadline
from prfaas_gateway.http.gateway import Gateway
from prfaas_gateway.http.headers import header_value
from prfaas_gateway.http.io import STREAMING, Body
from prfaas_gateway.http.one_answer import OneAnswer
from prfaas_gateway.http.several_choices import SeveralChoices
from prfaas_gateway.job import Job
from prfaas_gateway.large_requests import LARGE_BODY_BYTES, LargeRequest
from prfaas_gateway.models import ServedModel
from prfaas_gateway.openai.answer_form import form_of
from prfaas_gateway.openai.choices import Choices, check_choices, seed_of
from prfaas_gateway.openai.dialect import CompletionsDialect, usage_options
from prfaas_gateway.openai.errors import events_lost
from prfaas_gateway.openai.progress import EventGapError, Progress
from prfaas_gateway.openai.tool_use import ToolUse, tool_use_of
from prfaas_gateway.openai.types import ChatRequest, CompletionRequest
from prfaas_gateway.openai.validation import sampling_of
from prfaas_gateway.record import CLIENT_REQUEST_ID
from prfaas_gateway.sampling_defaults import header_of
from prfaas_gateway.several import SeveralGenerations

OPENAI_COMPLETION_TOKENS = 16
"""OpenAI's default `max_tokens` of a plain completion."""
CLIENT_IDS = {"x-correlation-id": "prfaas.client_correlation_id", "x-session-affinity": "prfaas.client_session"}
"""Headers that load clients send, and the attributes of the root span that keep them."""


class Exchange:
    """One request whose body has arrived."""

    def __init__(self, gateway: Gateway, endpoint: str, arrival: Arrival) -> None:
        """`endpoint` is a key of DIALECTS. Raises ApiError for a deadline that is none."""
        self._gateway = gateway
        self._endpoint = endpoint
        self._dialect = DIALECTS[endpoint]
        self._headers = arrival.headers
        self._reply = arrival.reply
        self._record = arrival.record
        self._tenant = arrival.tenant.label
        self._cache_scope = arrival.tenant.cache_scope
        self._admitted = arrival.admitted
        # The client's own id may repeat; ours names the request inside.
        self._client_id = arrival.client_id
        self._request_id = uuid.uuid4().hex
        self._deadline = Deadline.of(arrival.headers, gateway.config)

    async def answer(self, body: Body) -> None:
        """Raises ApiError, ClientGoneError."""
        tracing = self._gateway.observers.tracing
        start_ns = time.time_ns()
        request, prompts = await self._parsed(body.take())
        body.forget()
        model = self._gateway.model(request.model)
        config = self._gateway.config
        check_choices(request, min(config.max_choices, config.max_requests))
        root = self._record.parsed(request, extract(self._headers), self._ids())
        if tracing.enabled:
            self._reply.headers["x-prfaas-trace-id"] = trace_id(root)
        with request_logs(self._request_id, root):
            # Now, with the field that is wrong: a grammar takes longer than the check of what surrounds it.
            rendering = Rendering.of(request) if isinstance(request, ChatRequest) and prompts is None else PLAIN
            tool_use = tool_use_of(request, model.call_family)
            form = form_of(request) if tool_use is None else tool_use.form
            grammar = "" if form is None else await self._deadline.holds(self._gateway.grammars.grammar_of(form))
            if prompts is None:
                start_ns = time.time_ns()
                prompts = await self._deadline.holds(self._tokenized(request, model, rendering))
            bad_words = await self._deadline.holds(model.prompts.bad_words(request.bad_words, self._tenant))
            marks = () if tool_use is None else tool_use.family.marks
            jobs = self._jobs(request, model, prompts, bad_words, grammar, marks)
            self._record.tokenized(sum(map(len, prompts)), jobs[0].sampling, start_ns)
            per_prompt = request.choices_per_prompt
            # Each prompt is charged once, with its first choice.
            charged = [0 if index % per_prompt else len(job.token_ids) for index, job in enumerate(jobs)]
            self._admitted.reserve(charged, sum(job.sampling.max_tokens for job in jobs))
            asked = self._asked(request, model, jobs[0], tool_use)
            if len(jobs) == 1:
                async with self._gateway.generations.run(jobs[0], root) as generation:
                    await self._answer_from(generation, asked, jobs[0])
                return
            assert isinstance(self._dialect, CompletionsDialect), "no other dialect has several choices"
            self._admitted.widen(len(jobs))
            run = partial(self._gateway.generations.run, root=root)
            with self._gateway.admission.enter(len(jobs) - 1):
                async with SeveralGenerations(run, jobs, per_prompt) as generations:
                    await self._answer_several(generations, asked, self._dialect, jobs)

    async def _parsed(self, data: bytes) -> tuple[ChatRequest | CompletionRequest, list[list[int]] | None]:
        """Returns the request, and its prompts' tokens where the process for large requests has made them already."""
        if len(data) <= LARGE_BODY_BYTES:
            unknown = self._gateway.unknown_fields()
            request = self._dialect.parse(data, unknown)
            self._gateway.ignored(unknown)
            return request, None
        large = LargeRequest(self._endpoint, data, self._gateway.config.ignore_unknown_fields)
        read = await self._deadline.holds(self._gateway.large_requests.read(large, self._tenant))
        self._gateway.ignored(read.unknown)
        return read.request, read.prompts

    async def _answer_from(self, generation: Generation, asked: Asked, job: Job) -> None:
        self._record.placed(generation)
        progress = Progress(prompt_tokens=len(job.token_ids), detours=job.detours)
        one = OneAnswer(
            reply=self._reply, generation=generation, follow=self._follow, heard=self._heard, headers=_started_headers
        )
        try:
            if asked.request.stream:
                await one.stream(self._dialect.streamed(asked, progress), self._dialect.ping)
            else:
                await one.collect(self._dialect.whole(asked, progress))
        except EventGapError as error:
            raise events_lost(error) from error
        finally:
            self._record.detoured(generation.moves, progress.all_detours())

    async def _answer_several(
        self, generations: SeveralGenerations, asked: Asked, dialect: CompletionsDialect, jobs: Sequence[Job]
    ) -> None:
        request = asked.request
        choices = Choices(
            [Progress(prompt_tokens=len(job.token_ids), detours=job.detours) for job in jobs], request.choices_per_prompt
        )
        several = SeveralChoices(
            reply=self._reply,
            head=dialect.head(asked),
            choices=choices,
            generations=generations,
            placed=lambda index, generation: None if index else self._record.placed(generation),
            follow=self._follow,
            heard=self._heard,
            headers=_started_headers,
        )
        try:
            if request.stream:
                await several.stream(usage_options(asked), STREAMING)
            else:
                shows_logprobs = not isinstance(request, CompletionRequest) or request.logprobs is not None
                await several.collect(kept=request.n, report=asked.report, shows_logprobs=shows_logprobs)
        except EventGapError as error:
            raise events_lost(error) from error
        finally:
            self._record.detoured(choices.moves, choices.all_detours())

    def _asked(self, request: ChatRequest | CompletionRequest, model: ServedModel, job: Job, tool_use: ToolUse | None) -> Asked:
        return Asked(
            request=request,
            sampling=job.sampling,
            tool_use=tool_use,
            request_id=self._request_id,
            created=int(unix_s()),
            model=model.served_names[0],
            system_fingerprint=model.fingerprint,
            report=self._headers.get("x-prfaas-report") == "1",
        )

    async def _tokenized(
        self, request: ChatRequest | CompletionRequest, model: ServedModel, rendering: Rendering
    ) -> list[list[int]]:
        if isinstance(request, ChatRequest):
            return [await model.prompts.of_messages(request.messages, self._tenant, rendering)]
        return await model.prompts.of_prompts(request.prompts, self._tenant)

    def _jobs(
        self,
        request: ChatRequest | CompletionRequest,
        model: ServedModel,
        prompts: Sequence[list[int]],
        bad_words: tuple[tuple[int, ...], ...],
        grammar: str,
        shown_tokens: tuple[str, ...],
    ) -> list[Job]:
        """Returns a job for each choice, by index: those of the first prompt, then those of the next. Raises ApiError."""
        model.prompts.check_vocabulary(list(request.logit_bias), "logit_bias")
        model.prompts.check_vocabulary(request.stop_token_ids, "stop_token_ids")
        is_chat = isinstance(request, ChatRequest)
        default_max_tokens = self._gateway.config.default_max_tokens if is_chat else OPENAI_COMPLETION_TOKENS
        defaults = model.sampling.left_to_model(request, default_max_tokens)
        self._reply.headers.update(header_of(defaults))
        jobs: list[Job] = []
        for token_ids in prompts:
            sampling = sampling_of(
                request,
                prompt_tokens=len(token_ids),
                context_tokens=model.context_tokens,
                default_max_tokens=default_max_tokens,
                defaults=defaults,
                bad_words=bad_words,
                extra_stop=model.chat_stop if is_chat else (),
                grammar=grammar,
                shown_tokens=shown_tokens,
            )
            for choice in range(request.choices_per_prompt):
                name = f"{self._request_id}-c{len(jobs)}" if jobs else self._request_id
                jobs.append(self._job(name, model, token_ids, replace(sampling, seed=seed_of(sampling.seed, choice))))
        return jobs

    def _job(self, name: str, model: ServedModel, token_ids: list[int], sampling: Sampling) -> Job:
        return Job(
            request_id=name,
            model=model.name,
            tenant=self._tenant,
            cache_scope=self._cache_scope,
            token_ids=token_ids,
            sampling=sampling,
            ttft_deadline_s=self._deadline.timeout_s,
            deadline_at=self._deadline.at,
        )

    def _follow(self, index: int, progress: Progress, generation: Generation) -> None:
        """Takes that the answer goes on somewhere else, where it does since the event before."""
        started = generation.started
        if generation.moves and progress.started is not None and started is not None and started is not progress.latest:
            if not index:
                self._record.moved(started)
            self._admitted.moved(started, self._gateway.config.site)
        progress.follow(generation.moves, started)

    def _heard(self, index: int, event: GenerateEvent) -> None:
        self._record.heard(event, index)
        self._admitted.heard(event, self._gateway.config.site, index)

    def _ids(self) -> dict[str, str]:
        ids = {names.REQUEST_ID: self._request_id, CLIENT_REQUEST_ID: self._client_id}
        for header, attribute in CLIENT_IDS.items():
            if value := self._headers.get(header):
                ids[attribute] = value[:256]
        return ids


def _started_headers(started: Started) -> dict[str, str]:
    return {
        "x-prfaas-outcome": started.outcome,
        "x-prfaas-prefill-site": started.prefill_site,
        "x-prfaas-reason": header_value(started.reason),
    }
