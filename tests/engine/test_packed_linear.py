"""Packed weights change the speed and nothing else."""

import pytest
import torch

from prfaas.engine.packed_linear import PackedLinear, can_pack, replace_linears

needs_bf16 = pytest.mark.skipif(
    not can_pack(torch.bfloat16, torch.device("cpu")), reason="this CPU has no bf16 instructions, so nothing is packed here"
)


@needs_bf16
@pytest.mark.parametrize("rows", [1, 2, 8, 31, 512])
@pytest.mark.parametrize(("inputs", "outputs"), [(640, 2048), (2048, 640), (576, 192), (640, 30000)])
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_the_product_is_bit_identical(rows: int, inputs: int, outputs: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(rows * inputs + outputs)
    linear = torch.nn.Linear(inputs, outputs, bias=bias, dtype=torch.bfloat16)
    linear.weight.copy_(torch.randn(outputs, inputs, generator=generator) * 0.1)
    data = torch.randn(1, rows, inputs, generator=generator).bfloat16()
    assert torch.equal(PackedLinear(linear)(data), linear(data))


@needs_bf16
def test_all_linears_are_replaced_and_a_tied_embedding_stays() -> None:
    embedding = torch.nn.Embedding(100, 64, dtype=torch.bfloat16)
    head = torch.nn.Linear(64, 100, bias=False, dtype=torch.bfloat16)
    head.weight = embedding.weight
    body = torch.nn.Sequential(torch.nn.Linear(64, 64, dtype=torch.bfloat16), torch.nn.ReLU())
    model = torch.nn.Sequential(embedding, body, head)
    replace_linears(model, PackedLinear)
    assert [type(module) for module in model.modules() if not list(module.children())] == [
        torch.nn.Embedding,
        PackedLinear,
        torch.nn.ReLU,
        PackedLinear,
    ]
    assert embedding.weight.shape == (100, 64)


def test_other_types_and_devices_are_left_alone() -> None:
    assert not can_pack(torch.float32, torch.device("cpu"))
    assert not can_pack(torch.bfloat16, torch.device("cuda"))
