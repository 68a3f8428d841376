"""Who sees whom in self-attention, of the groups of queries that are decoded in one pass."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional as F

from oddetr.structures import Queries


@dataclass(frozen=True)
class Sight:
    """What a group's queries see in self-attention.

    Attributes:
        length: how many they are.
        seen: which groups they see, by number: first their own.
        padding: True on queries of these groups that nobody sees.
        blind: True where a query does not see another.
    """

    length: int
    seen: tuple[int, ...]
    padding: Bool[Tensor, "batch seen"] | None
    blind: Bool[Tensor, "queries seen"] | None


def sights(groups: Mapping[str, Queries]) -> list[Sight]:
    """What the queries of each group see."""
    numbers = {name: number for number, name in enumerate(groups)}
    found: list[Sight] = []
    for name, group in groups.items():
        seen = [groups[other] for other in (name, *group.sees)]
        padding, blind = None, group.blind
        if any(each.padding is not None for each in seen):
            padding = torch.cat([_padding(each) for each in seen], dim=1)
            # Of an image with nothing else, padding sees padding: nothing reads it, and nothing at all would be NaN.
            padding = padding & ~padding.all(dim=1, keepdim=True)
        if blind is not None:
            blind = F.pad(blind, (0, sum(each.content.shape[1] for each in seen[1:])))
        places = tuple(numbers[other] for other in (name, *group.sees))
        found.append(Sight(group.content.shape[1], places, padding, blind))
    return found


def _padding(queries: Queries) -> Tensor:
    if queries.padding is not None:
        return queries.padding
    return torch.zeros(queries.content.shape[:2], dtype=torch.bool, device=queries.content.device)
