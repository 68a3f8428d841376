"""Self-attention of the query groups that are decoded in one pass: which queries attend to which."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional as F

from oddetr.structures import Queries


@dataclass(frozen=True)
class GroupAttention:
    """The keys of one group's self-attention, and its masks as `nn.MultiheadAttention` names them.

    Attributes:
        length: number of the group's queries.
        keys: indices of the groups whose queries are the keys: the group itself first.
        key_padding_mask: True on keys that no query attends to.
        attn_mask: True where a query does not attend to a key.
    """

    length: int
    keys: tuple[int, ...]
    key_padding_mask: Bool[Tensor, "batch keys"] | None
    attn_mask: Bool[Tensor, "queries keys"] | None


def attention_of(groups: Mapping[str, Queries]) -> list[GroupAttention]:
    """The self-attention of each group, in their order."""
    index = {name: place for place, name in enumerate(groups)}
    found: list[GroupAttention] = []
    for name, group in groups.items():
        names = (name, *group.attends_to)
        keys = [groups[other] for other in names]
        padding, mask = None, group.attention_mask
        if any(each.padding is not None for each in keys):
            padding = torch.cat([_padding(each) for each in keys], dim=1)
            # A softmax over no key is NaN: an image with padding only attends to itself, and its output is not used.
            padding = padding & ~padding.all(dim=1, keepdim=True)
        if mask is not None:
            mask = F.pad(mask, (0, sum(each.content.shape[1] for each in keys[1:])))
        found.append(GroupAttention(group.content.shape[1], tuple(index[each] for each in names), padding, mask))
    return found


def _padding(queries: Queries) -> Tensor:
    if queries.padding is not None:
        return queries.padding
    return torch.zeros(queries.content.shape[:2], dtype=torch.bool, device=queries.content.device)
