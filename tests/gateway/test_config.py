"""Models of a gateway's configuration, and the names that clients know them by."""

from typing import Any

import pytest

from prfaas.bus.endpoint import NatsEndpoint
from prfaas_gateway.config import GatewayConfig


def config(**settings: Any) -> GatewayConfig:
    return GatewayConfig(site="east", name="one", control=NatsEndpoint(url="nats://127.0.0.1:4222"), **settings)


def test_models_are_known_by_the_last_components_of_their_paths() -> None:
    references = ("gemma-3-270m", "/models/mine", "organization/theirs")
    assert config(models=references).model_names == ("gemma-3-270m", "mine", "theirs")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": ("a", "b"), "served_model_name": ("x",)}, "`served-model-name` is for one model, and `models` has 2"),
        ({"models": ("/one/mine", "/other/mine")}, "`models` has two of the same name: mine, mine"),
        ({"models": ("/models/my model",)}, "'my model', the last component of '/models/my model', cannot be a model's name"),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**settings)
