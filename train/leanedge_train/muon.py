"""Muon: momentum whose matrices are made orthogonal before they are applied (Jordan 2024)."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Coefficients of the quintic Newton-Schulz step: https://kellerjordan.github.io/posts/muon/
_A, _B, _C = 3.4445, -4.7750, 2.0315
_STEPS = 5


def orthogonal(matrices: Tensor) -> Tensor:
    """(n, rows, cols), rows <= cols -> the same with singular values near 1; bf16 suffices."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x


class Muon(torch.optim.Optimizer):
    """For matrices inside of layers; everything else takes AdamW. Equal shapes go as one batch."""

    def __init__(
        self,
        parameters: Sequence[Tensor],
        lr: float = 0.02,
        momentum: float = 0.95,
        decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    rows, cols = parameter.shape
                    shapes.setdefault((rows, cols), []).append(parameter)
            for (rows, cols), parameters in shapes.items():
                updates = []
                for parameter in parameters:
                    state = self.state[parameter]
                    if not state:
                        state["momentum"] = torch.zeros_like(parameter)
                    average, gradient = state["momentum"], parameter.grad
                    assert gradient is not None
                    average.lerp_(gradient, 1 - group["momentum"])
                    updates.append(gradient.lerp(average, group["momentum"]))  # Nesterov
                stack = torch.stack(updates)
                wide = orthogonal(stack.mT if rows > cols else stack)
                stack = wide.mT if rows > cols else wide
                scale = max(1.0, rows / cols) ** 0.5
                for parameter, update in zip(parameters, stack, strict=True):
                    parameter.mul_(1 - group["lr"] * group["decay"])
                    parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * scale)
