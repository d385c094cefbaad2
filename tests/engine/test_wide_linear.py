"""A CPU without 16-bit arithmetic computes what one with it computes, but for the order of the sums."""

import pytest
import torch

from prfaas.engine.wide_linear import WideLinear, should_widen


@pytest.mark.parametrize("rows", [1, 2, 31, 512])
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_the_product_is_the_exact_one_rounded(rows: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(rows)
    linear = torch.nn.Linear(640, 256, bias=bias, dtype=torch.bfloat16)
    linear.weight.copy_(torch.randn(256, 640, generator=generator) * 0.1)
    if bias:
        linear.bias.copy_(torch.randn(256, generator=generator) * 0.1)
    data = torch.randn(1, rows, 640, generator=generator).bfloat16()
    exact = torch.nn.functional.linear(data.double(), linear.weight.double(), linear.bias.double() if bias else None)
    product = WideLinear(linear)(data)
    assert product.dtype is torch.bfloat16
    # bf16 keeps 8 bits of the significand: half a unit in the last place is 2**-9 of the value.
    torch.testing.assert_close(product.double(), exact, rtol=2**-8, atol=1e-5)
    # A sum that lies between two values of bf16 may be rounded to either; in one row of 256 that happens once.
    assert (product == exact.bfloat16()).float().mean() > 0.99


@torch.inference_mode()
def test_a_row_is_the_same_alone_and_among_others_but_for_the_last_bit() -> None:
    generator = torch.Generator().manual_seed(1)
    linear = torch.nn.Linear(640, 256, bias=False, dtype=torch.bfloat16)
    linear.weight.copy_(torch.randn(256, 640, generator=generator) * 0.1)
    data = torch.randn(32, 640, generator=generator).bfloat16()
    wide = WideLinear(linear)
    torch.testing.assert_close(wide(data)[7:8], wide(data[7:8]), rtol=2**-7, atol=0)


def test_only_16_bit_types_on_a_cpu_are_widened() -> None:
    assert not should_widen(torch.float32, torch.device("cpu"))
    assert not should_widen(torch.bfloat16, torch.device("cuda"))
