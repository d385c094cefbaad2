"""Bodies of OpenAI's requests and answers, with the fields that this server supports."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from prfaas_gateway.openai.structured import Choices, ResponseFormat, Schema, StructuredOutputs
from prfaas_gateway.openai.tool_types import Tool, ToolCall, ToolCallDelta, ToolChoice

MAX_CHOICES = 128
"""Most choices, and most prompts, of a request, whatever is configured: OpenAI's bound of `n`."""
ChoiceCount = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
TokenCount = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
TopK = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
MinP = Annotated[float, Meta(ge=0, le=1)]
RepetitionPenalty = Annotated[float, Meta(ge=0.1, le=10)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
BadWord = Annotated[str, Meta(min_length=1, max_length=256)]
StopString = Annotated[str, Meta(min_length=1, max_length=1024)]


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields of both endpoints. A null field counts as absent."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: ChoiceCount = 1
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: Annotated[dict[TokenId, Bias], Meta(max_length=1024)] = {}
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=256)] = []
    bad_words: Annotated[list[BadWord], Meta(max_length=128)] = []
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=4)] | None = None
    ignore_eos: bool = False
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None

    @property
    def choices_per_prompt(self) -> int:
        """Answers that are generated for each prompt."""
        return self.n


class CompletionRequest(GenerationRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    prompt: str | list[int | str | list[int]]
    """Text or token ids, or a list of texts or of lists of token ids."""
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    best_of: ChoiceCount | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one. Raises no error: `validation` has seen to it that entries are of one kind."""
        is_list = isinstance(self.prompt, list) and self.prompt and not isinstance(self.prompt[0], int)
        return self.prompt if is_list else [self.prompt]  # type: ignore[return-value, list-item]

    @property
    def choices_per_prompt(self) -> int:
        return self.best_of or self.n


class TextPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Meta(min_length=1)] | None = None
    """None only beside `tool_calls`."""
    name: str | None = None
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None
    """Call that a message of role `tool` answers."""

    @property
    def text(self) -> str:
        if self.content is None:
            return ""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(GenerationRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[Tool] = []
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = {}


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Text to tokenize, in vLLM's words."""

    model: str | None = None
    """None: the only one that is served."""
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False


class TokenizeChatRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Messages to tokenize, with a chat's wishes about their rendering."""

    model: str | None = None
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    """True: also those that the tokenizer adds, beside those that the template writes."""
    return_token_strs: bool = False
    tools: list[Tool] = []
    chat_template_kwargs: dict[str, Any] = {}


class CountTokensRequest(TokenizeChatRequest, frozen=True, kw_only=True):
    """Messages whose tokens are counted, in Anthropic's words."""


class CountTokensAnswer(msgspec.Struct, frozen=True, kw_only=True):
    input_tokens: int


class TokenizeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model: str | None = None
    tokens: list[TokenId]


class DetokenizeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    prompt: str


class Version(msgspec.Struct, frozen=True, kw_only=True):
    version: str


class PromptTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    cached_tokens: int


class TransferUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Field `usage.prfaas`, for clients that send `x-prfaas-report: 1`."""

    outcome: str
    prefill_site: str
    reason: str
    transfer: dict[str, int | float]
    moves: int
    """Times that the request was placed again because its decode worker was lost, or part of its answer."""
    detours: dict[str, int]
    """Times of each contracts.terms.Detour that the request took; empty: all went well at once."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    prfaas: TransferUsage | UnsetType = UNSET


class TopLogprob(msgspec.Struct, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: tuple[int, ...] | None


class ChatLogprob(msgspec.Struct, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: tuple[int, ...] | None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """`content` is an encoded array of one ChatLogprob per token."""

    content: msgspec.Raw
    refusal: None = None


class CompletionLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Four arrays of one entry per token. `top_logprobs` is encoded: objects of text to log-probability."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: msgspec.Raw | None
    text_offset: list[int]


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    index: int = 0
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None


class AssistantMessage(msgspec.Struct, frozen=True, kw_only=True):
    content: str | None
    role: str = "assistant"
    tool_calls: list[ToolCall] | UnsetType = UNSET
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    message: AssistantMessage
    finish_reason: str
    index: int = 0
    logprobs: ChatLogprobs | None = None


class ChatDelta(msgspec.Struct, frozen=True, kw_only=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    delta: ChatDelta
    index: int = 0
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


Choice = CompletionChoice | ChatChoice | ChatChunkChoice


class AnswerBody(msgspec.Struct, frozen=True, kw_only=True):
    """A whole body, or one chunk of a stream. `object` says which."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice] | msgspec.Raw
    usage: Usage | UnsetType | None = UNSET


class Model(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    created: int
    max_model_len: int
    object: str = "model"
    owned_by: str = "prfaas"


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    data: list[Model]
    object: str = "list"
