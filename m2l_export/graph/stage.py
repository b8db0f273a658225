"""Hold what the deploy graphs of networks with norms are made of."""

from __future__ import annotations

from torch import Tensor, nn


class Stage(nn.Module):
    """Apply a layer that halves or doubles the side, and the norm that follows it, if any."""

    def __init__(self, layer: nn.Module, norm: nn.Module | None, drops: bool = False) -> None:
        super().__init__()
        self.layer = layer
        self.norm = norm
        self.drops = drops
        """Whether dropout follows."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H/2, W/2) or (B, C', 2H, 2W)."""
        x = self.layer(x)
        return x if self.norm is None else self.norm(x)
