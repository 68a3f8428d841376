"""Prediction heads: class logits, and boxes as corrections of anchors."""

import copy
import math
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oddetr.models.autocast import lowered

PRIOR = 0.01
"""The probability of each class that a new class output predicts (Lin et al. 2017, Focal loss, section 4.1)."""


def inverse_sigmoid(x: Float[Tensor, "*any"], eps: float = 1e-5) -> Float[Tensor, "*any"]:
    """log(x / (1 - x)), with both terms at least `eps`."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


class MLP(nn.Module):
    """`depth` linear layers with ReLU between them."""

    def __init__(self, width: int, hidden: int, out: int, depth: int) -> None:
        super().__init__()
        sizes = [width] + [hidden] * (depth - 1) + [out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Float[Tensor, "*any width"]) -> Float[Tensor, "*any out"]:
        """Applies the layers."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class PredictionHead(nn.Module):
    """Class logits and box of each query, given in float32. Under autocast the layers compute in its precision; a
    box is added to its anchor in float32.

    box = sigmoid(MLP(content) + inverse_sigmoid(anchor)); where the anchor is a point, the logits of its size are 0.

    Initially every class has probability `PRIOR` and the box is the anchor.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.classes = nn.Linear(width, num_classes)
        self.boxes = MLP(width, width, 4, depth=3)
        nn.init.constant_(self.classes.bias, -math.log((1 - PRIOR) / PRIOR))
        nn.init.zeros_(self._correction.weight)
        nn.init.zeros_(self._correction.bias)

    @property
    def _correction(self) -> nn.Linear:
        return cast(nn.Linear, self.boxes.layers[-1])

    def forward(
        self, content: Float[Tensor, "batch queries width"], anchor_logits: Float[Tensor, "batch queries 4"]
    ) -> tuple[Float[Tensor, "batch queries classes"], Float[Tensor, "batch queries 4"]]:
        """Returns logits and boxes; `anchor_logits` are `inverse_sigmoid(anchors)`."""
        content = lowered(content)
        boxes = self.refined(content, anchor_logits)
        return self.classes(content).float(), boxes

    def refined(
        self, content: Float[Tensor, "batch queries width"], anchor_logits: Float[Tensor, "batch queries 4"]
    ) -> Float[Tensor, "batch queries 4"]:
        """The box alone."""
        return (self.boxes(content).float() + anchor_logits.float()).sigmoid()

    def start_with_size(self, logit: float) -> None:
        """Sets the logit of the width and height that a box starts with when its anchor is a point (official: -2)."""
        with torch.no_grad():
            self._correction.bias[2:] = logit

    def copies(self, count: int) -> list["PredictionHead"]:
        """`count` independent heads that start with the same weights."""
        return [copy.deepcopy(self) for _ in range(count)]
