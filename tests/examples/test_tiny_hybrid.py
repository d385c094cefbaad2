"""A few seconds of training give a model that the engine takes."""

import sys
from pathlib import Path

import pytest

from examples import tiny_hybrid
from prfaas.engine.factory import EngineConfig, build_engine
from prfaas.kvcache.layout import LayerKind

pytestmark = pytest.mark.slow


def test_the_trained_model_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PRFAAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["tiny_hybrid", str(tmp_path / "tiny"), "--minutes", "0.1"])
    tiny_hybrid.main()
    assert "perplexity of text that it has not seen" in capsys.readouterr().out
    engine = build_engine(EngineConfig(model=str(tmp_path / "tiny"), device="cpu"))
    kinds = [spec.kind for spec in engine.describe().layout.layers]
    assert kinds == [*[LayerKind.RECURRENT] * 3, LayerKind.FULL] * 2
    assert engine.describe().layout.dtype == "bfloat16"
