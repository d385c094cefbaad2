"""A prefill worker that lies: `python -m tests.attacks.lying_worker LIE --config FILE` in the place of prfaas-prefill-worker.

LIE is `another-prompt` (KV of other tokens), `another-request` (KV of the last prompt of the same length that it was given) or
`one-byte` (the right KV but for one byte). Checksums and seals are right in each.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from prfaas.engine.factory import EngineConfig, build_engine
from prfaas.engine.protocol import Engine
from prfaas.kvcache.layout import KVPiece
from prfaas.kvcache.pinned_prefix import PinnedPrefix
from prfaas.process.runner import run_service
from prfaas.worker import engine_loading
from prfaas_prefill_worker import service
from prfaas_prefill_worker.config import PrefillWorkerConfig

LIES = ("another-prompt", "another-request", "one-byte")


class LyingEngine:
    """Does what the real engine does, but for other prompts or with other bytes."""

    def __init__(self, engine: Engine, lie: str) -> None:
        self._engine = engine
        self._lie = lie
        self._given: dict[int, list[int]] = {}
        """Last prompt by its length."""

    def __getattr__(self, name: str) -> Any:
        """Returns what the real engine has: it lies only when it prefills."""
        return getattr(self._engine, name)

    def prefill(
        self,
        token_ids: Sequence[int],
        on_piece: Callable[[KVPiece], None],
        cancelled: Callable[[], bool],
        *,
        prefix: PinnedPrefix | None = None,
        from_token: int = 0,
    ) -> None:
        told = list(token_ids)
        if self._lie == "another-prompt":
            told = told[::-1]
        elif self._lie == "another-request":
            told, self._given[len(told)] = self._given.get(len(told), told), told
        put = self._put_damaged(on_piece) if self._lie == "one-byte" else on_piece
        self._engine.prefill(told, put, cancelled, from_token=from_token)

    def _put_damaged(self, on_piece: Callable[[KVPiece], None]) -> Callable[[KVPiece], None]:
        damaged: list[KVPiece] = []

        def put(piece: KVPiece) -> None:
            if not damaged:
                keys = bytearray(piece.keys)
                keys[-1] ^= 0x40
                piece = piece._replace(keys=memoryview(keys))
                damaged.append(piece)
            on_piece(piece)

        return put


def main() -> int:
    lie = sys.argv.pop(1)
    assert lie in LIES, lie

    def build(config: EngineConfig) -> Engine:
        return LyingEngine(build_engine(config), lie)

    vars(engine_loading)["build_engine"] = build
    return run_service(PrefillWorkerConfig, service.PrefillWorkerService)


if __name__ == "__main__":
    sys.exit(main())
