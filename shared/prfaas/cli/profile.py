"""Measure what this machine does with a model, for `prfaas plan`: prefill time and cache by length, decode step by batch.

The engine runs here, alone, as a worker with the same options would run it. Keep the machine quiet meanwhile: other work
makes the numbers worse. The file that --out names is a profile; a deployment file refers to it by `[[profile]] file = "..."`.
"""

import argparse
import datetime
import os
import platform
from pathlib import Path

from prfaas.capacity.profiles import DecodePoint, PrefillPoint, ProfileError
from prfaas.cli import UsageError
from prfaas.engine.factory import EngineConfig, build_engine
from prfaas.engine.measure import measure_profile
from prfaas.engine.model_directory import WeightsError
from prfaas.engine.protocol import EngineError

LENGTHS = (128, 512, 2048, 4096)
BATCHES = (1, 2, 4, 8, 16)
CONTEXT_TOKENS = 512
MAX_TOKENS, MAX_BATCH, MAX_THREADS = 100_000_000, 65_536, 4096
"""Bounds beyond which a number is a slip: the list of tokens is made before the engine can refuse it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = EngineConfig()
    parser.add_argument("--model", default=default.model, help="default: %(default)s")
    parser.add_argument("--dtype", default=default.dtype, choices=("auto", "bfloat16", "float32"), help="default: %(default)s")
    parser.add_argument("--threads", type=_threads, default=default.threads, help="CPU threads; default: %(default)s")
    parser.add_argument("--device", default=default.device, help="default: %(default)s")
    parser.add_argument(
        "--lengths", type=_positives, default=LENGTHS, metavar="N,N,...", help=f"prompt tokens; default: {_listed(LENGTHS)}"
    )
    parser.add_argument(
        "--batches", type=_positives, default=BATCHES, metavar="N,N,...", help=f"requests decoding; default: {_listed(BATCHES)}"
    )
    parser.add_argument(
        "--context", type=_positive, default=CONTEXT_TOKENS, help="tokens before each decoding request; default: %(default)s"
    )
    parser.add_argument("--name", help="of the profile; default: the model's")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="where the profile goes")


def run(arguments: argparse.Namespace) -> int:
    if len(set(arguments.lengths)) < 2:
        raise UsageError("--lengths needs at least two lengths: a profile is read off lines between points.")
    if max(arguments.lengths) > MAX_TOKENS or max(arguments.batches) > MAX_BATCH or arguments.context > MAX_TOKENS:
        raise UsageError(f"at most {MAX_TOKENS} tokens and a batch of {MAX_BATCH} are measured.")
    if arguments.out.is_dir():
        raise UsageError(f"{arguments.out} cannot be written: it is a directory.")
    if not arguments.out.absolute().parent.is_dir():
        raise UsageError(f"{arguments.out} cannot be written: its directory does not exist.")
    try:
        config = EngineConfig(model=arguments.model, dtype=arguments.dtype, threads=arguments.threads, device=arguments.device)
    except ValueError as error:
        raise UsageError(f"--model: {error}.") from error
    try:
        engine = build_engine(config)
        profile = measure_profile(
            engine,
            name=arguments.name or config.model_name,
            source=_source(config, engine.describe().layout.dtype, arguments.context),
            lengths=arguments.lengths,
            batches=arguments.batches,
            context_tokens=arguments.context,
            measured=lambda point: print(_line(point), flush=True),
        )
        profile.save(arguments.out)
    except (EngineError, WeightsError, ProfileError) as error:
        raise UsageError(str(error)) from error
    except (RuntimeError, MemoryError) as error:  # as torch says that memory is short
        first, _, _ = str(error).partition("\n")
        raise UsageError(f"the engine could not run this: {first or type(error).__name__}.") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{str(arguments.out)!r} cannot be written: {getattr(error, 'strerror', None) or error}.") from error
    print(f"{arguments.out}: profile {profile.name}. {profile.source}")
    return 0


def _source(config: EngineConfig, dtype: str, context_tokens: int) -> str:
    now = datetime.datetime.now(datetime.UTC).date()
    return (
        f"Measured by `prfaas profile` on {now}: {config.model_name}, {dtype}, threads {config.threads} of {os.cpu_count()}, "
        f"device {config.device}, {platform.machine()}; prefill in chunks of {config.chunk_tokens}, decode at {context_tokens} "
        f"tokens of context; load average {os.getloadavg()[0]:.1f} at the start."
    )


def _line(point: PrefillPoint | DecodePoint) -> str:
    if isinstance(point, DecodePoint):
        what, size, unit, rate = "decode", point.batch, "requests", point.batch / point.step_s
        seconds, more = point.step_s, "a step"
    else:
        what, size, unit, rate = "prefill", point.tokens, "tokens", point.tokens / point.prefill_s
        seconds, more = point.prefill_s, f"{point.kv_bytes / 1e6:.2f} MB of KV"
    return f"{what:<8}{size:>7} {unit:<9}{seconds:>9.4f} s {rate:>8.0f} tokens/s  {more}"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


def _threads(text: str) -> int:
    value = _positive(text)
    if value > MAX_THREADS:
        raise argparse.ArgumentTypeError(f"{value} must be at most {MAX_THREADS}")
    return value


def _positives(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _listed(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))
