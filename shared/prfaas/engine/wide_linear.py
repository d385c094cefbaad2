"""Linear layers of 16-bit models on CPUs without 16-bit arithmetic: they multiply in fp32 and round the result to 16 bits.

oneDNN's 16-bit kernels need AVX512 or AMX. Without them a product of many rows takes several times as long as the same product in
fp32: most laptops and many servers would miss every deadline. The product of two bf16 numbers is exact in fp32. The sum is kept
in fp32, as in the 16-bit kernels. Only the order of the sum differs from theirs.
"""

import torch

from prfaas.engine.packed_linear import can_pack


def should_widen(dtype: torch.dtype, device: torch.device) -> bool:
    """Tells whether layers of this dtype are faster in fp32 on this device: a CPU that cannot pack 16-bit weights."""
    return device.type == "cpu" and dtype in (torch.bfloat16, torch.float16) and not can_pack(torch.bfloat16, device)


class WideLinear(torch.nn.Module):
    """A 16-bit linear layer that computes in fp32.

    It keeps an fp32 copy of its weights from the first call on: three times the memory of the 16-bit layer."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        # Filled at the first call: a prefill worker never calls the head, whose fp32 copy is the largest.
        self._wide: tuple[torch.Tensor, torch.Tensor | None] | None = None

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """`rows` is [..., in features]; returns [..., out features] in the dtype of `rows`."""
        if self._wide is None:
            self._wide = self.weight.detach().float(), None if self.bias is None else self.bias.detach().float()
        weight, bias = self._wide
        return torch.nn.functional.linear(rows.float(), weight, bias).to(rows.dtype)
