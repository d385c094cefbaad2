"""Say what a model is made of, what its KV takes, and whether it can be served: from its configuration, without its weights.

With a link it also says how long the KV of a prompt is on it, and with a profile of the pd site's machine whether offloading can
pay: not where the link alone takes longer than that machine's own prefill. Exit status 1: it cannot be served.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from prfaas.capacity.builtin import builtin_profile
from prfaas.capacity.profiles import Profile, ProfileError
from prfaas.cli import UsageError
from prfaas.cli.tables import format_table
from prfaas.engine.emulated_model import EMULATED_MODELS
from prfaas.engine.factory import EngineConfig
from prfaas.engine.model_directory import WeightsError, config_of
from prfaas.engine.model_reference import directory_of
from prfaas.engine.weights import INSTALL_TORCH, prepare
from prfaas.kvcache.layout import KVLayout, LayerKind, LayerSpec

LENGTHS = (1 << 10, 1 << 13, 1 << 15, 1 << 17)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = EngineConfig()
    parser.add_argument("model", metavar="MODEL", help="a shipped model's name, a directory, or a repository of a hub")
    parser.add_argument("--dtype", default=default.dtype, choices=("auto", "bfloat16", "float32"), help="default: %(default)s")
    parser.add_argument("--link-mbit", type=_positive, metavar="N", help="rate of the link between the sites, 10^6 bits a second")
    parser.add_argument("--rtt-ms", type=_positive, default=0.0, metavar="N", help="its round trip; default: none")
    parser.add_argument("--profile", metavar="NAME|FILE.json", help="of the pd site's machine, built in or by `prfaas profile`")


def run(arguments: argparse.Namespace) -> int:
    if arguments.model in EMULATED_MODELS:
        raise UsageError(f"{arguments.model} is emulated: it has no configuration, and its KV is that of its profile.")
    if arguments.link_mbit is None and (arguments.profile or arguments.rtt_ms):
        raise UsageError("--profile and --rtt-ms need --link-mbit: they are about the way over a link.")
    profile = None if arguments.profile is None else _profile(arguments.profile)
    try:
        directory = directory_of(arguments.model, weights=False) or prepare(arguments.model).directory
        of_file = config_of(directory)
    except WeightsError as error:
        raise UsageError(f"{error}.") from error
    print(f"model: {directory}\nclass: {', '.join(of_file.get('architectures') or ['none'])}")
    try:
        from prfaas.engine.model_config import read_config

        config = read_config(directory, arguments.dtype)
    except ModuleNotFoundError as error:
        raise UsageError(f"needs {error.name}: {INSTALL_TORCH}.") from error
    except WeightsError as error:
        print(f"layers: {_layers_of(of_file)}\nserved: no, {error}.")
        return 1
    context_tokens = config.transformers.max_position_embeddings
    print(_described(config.layout, context_tokens))
    if arguments.link_mbit is not None:
        print(_over_link(config.layout, context_tokens, arguments.link_mbit, arguments.rtt_ms, profile))
    print("served: yes, if its weights are those of the configuration and it passes the self-test at the start.")
    return 0


def _described(layout: KVLayout, context_tokens: int) -> str:
    kinds = Counter(_kind(spec) for spec in layout.layers)
    state_bytes = sum(spec.state_bytes for spec in layout.layers)
    states = f"states of all recurrent layers, at every length: {state_bytes:,} bytes\n" if state_bytes else ""
    token_bytes = sum(layout.token_bytes(index) for index, spec in enumerate(layout.layers) if spec.kind is LayerKind.FULL)
    rows = [["tokens", "KV of a request", "bytes per token"]]
    rows += [[f"{n:,}", _size(layout.total_bytes(n)), f"{layout.total_bytes(n) / n:,.0f}"] for n in _lengths(context_tokens)]
    return (
        f"layers: {', '.join(f'{count} of {kind}' for kind, count in kinds.items())}\n"
        f"dtype: {layout.dtype}\ncontext: {context_tokens:,} tokens\n"
        f"KV of one token more, once all windows are full: {token_bytes:,} bytes\n{states}\n{format_table(rows)}\n"
    )


def _kind(spec: LayerSpec) -> str:
    if spec.kind is LayerKind.RECURRENT:
        return f"recurrent state ({spec.state_bytes:,} bytes)"
    window = f"window of {spec.window_tokens:,} tokens, " if spec.window_tokens else ""
    values = f" and {spec.value_dim}" if spec.value_dim else ""
    return f"{spec.kind} attention ({window}{spec.kv_heads} KV heads of {spec.head_dim}{values})"


def _over_link(layout: KVLayout, context_tokens: int, link_mbit: float, rtt_ms: float, profile: Profile | None) -> str:
    header = ["tokens", "link, s"] + (["prefill at home, s", "offloading"] if profile else [])
    rows = [header]
    for tokens in _lengths(context_tokens):
        link_s = layout.total_bytes(tokens) * 8 / (link_mbit * 1e6) + rtt_ms / 1e3
        row = [f"{tokens:,}", f"{link_s:.3g}"]
        if profile is not None:
            home_s = profile.prefill_s(tokens)
            row += [f"{home_s:.3g}", "can pay" if link_s < home_s else "cannot pay"]
        rows.append(row)
    if profile is None:
        said = "Offloading can pay for prompts whose prefill at home takes longer than that; --profile says which."
    else:
        said = f"By the profile {profile.name}. `prfaas plan` weighs a whole deployment."
    return f"{format_table(rows)}\n{said}\n"


def _lengths(context_tokens: int) -> list[int]:
    """Returns the lengths that the model can see, at the least its whole context."""
    return [tokens for tokens in LENGTHS if tokens <= context_tokens] or [context_tokens]


def _layers_of(config: dict[str, Any]) -> str:
    """Returns the layers as far as a configuration says what they are."""
    types = config.get("layer_types")
    if isinstance(types, list):
        return ", ".join(f"{count} of {kind}" for kind, count in Counter(map(str, types)).items())
    return f"{config.get('num_hidden_layers', 'an unknown number')}, of kinds that the configuration does not name"


def _profile(named: str) -> Profile:
    try:
        return Profile.load(Path(named)) if named.endswith(".json") else builtin_profile(named)
    except (ProfileError, OSError) as error:
        raise UsageError(f"--profile: {error}") from error


def _size(number_bytes: int) -> str:
    return f"{number_bytes / 1e6:,.1f} MB"


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1e9:
        raise argparse.ArgumentTypeError(f"{text} must be above 0 and at most 10^9")
    return value
