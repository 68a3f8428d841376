"""Matching instability: between validations (DN-DETR, arXiv 2203.01305) and between decoder layers (Stable-DINO,
arXiv 2304.04742)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor


@dataclass(frozen=True)
class Matching:
    """The query that each object of a validation set is matched to: DN-DETR's V, indexed by object instead of query.

    Attributes:
        image_ids: the images, ascending.
        counts: objects of each image.
        queries: `Queries.identity` of each object's query, for the objects of all images in turn; -1 where an object is
            unmatched because its image has more objects than queries. Within an image no query occurs twice.
    """

    image_ids: Int64[np.ndarray, " images"]
    counts: Int64[np.ndarray, " images"]
    queries: Int64[np.ndarray, "layers objects"]

    @classmethod
    def of(cls, found: Mapping[int, Int64[np.ndarray, "layers _"]]) -> "Matching":
        """Make it from the results of `matched_queries`, by image id; at least one image."""
        ids = sorted(found)
        counts = [found[image].shape[1] for image in ids]
        queries = np.concatenate([found[image] for image in ids], axis=1)
        return cls(np.array(ids, np.int64), np.array(counts, np.int64), queries)

    @classmethod
    def from_state(cls, state: Mapping[str, Int64[Tensor, "..."]]) -> "Matching":
        """Restore it from `state`."""
        return cls(**{name: value.numpy() for name, value in state.items()})

    def state(self) -> dict[str, Int64[Tensor, "..."]]:
        """The fields as tensors, for a checkpoint."""
        return {name: torch.from_numpy(value) for name, value in vars(self).items()}

    def same_objects(self, other: "Matching") -> bool:
        """Whether both have the same images, object counts and layers."""
        ours, theirs = (self.image_ids, self.counts), (other.image_ids, other.counts)
        return self.queries.shape == other.queries.shape and all(map(np.array_equal, ours, theirs))


@dataclass(frozen=True)
class Instability:
    """Instability of the matching; NaN without objects.

    Attributes:
        raw: IS of each decoder layer, in queries per image, >= 0; None without a comparable previous validation.
        normalised: likewise, IS over twice the objects per image, its maximum (unless objects outnumber queries).
        unstable_score: for each decoder layer from the second on, the share of objects whose query differs from that of
            the previous layer, in [0, 1].
    """

    raw: tuple[float, ...] | None
    normalised: tuple[float, ...] | None
    unstable_score: tuple[float, ...]

    def to_json(self) -> dict[str, list[float | None] | None]:
        """The fields under their names in `metrics.jsonl`; None for NaN."""
        return {
            "instability": _plain(self.raw),
            "normalised_instability": _plain(self.normalised),
            "unstable_score": _plain(self.unstable_score),
        }


def matched_queries(
    assignment: Int64[Tensor, "layers batch queries"], identity: Int64[Tensor, "batch queries"], counts: tuple[int, ...]
) -> list[Int64[np.ndarray, "layers _"]]:
    """For each image, the identity of each object's query in each layer; -1 for unmatched objects.

    Example: identities [50, 60, 70] and assignment [1, -1, 0] give [70, 50].

    Args:
        assignment: the object of each query, or -1.
        identity: the identity of each query.
        counts: objects of each image.
    """
    objects = max(counts, default=0)
    found = identity.new_full((*assignment.shape[:2], objects + 1), -1)
    found.scatter_(-1, assignment.masked_fill(assignment < 0, objects), identity.expand_as(assignment))
    table = found.cpu().numpy()
    return [table[:, image, :count].copy() for image, count in enumerate(counts)]


def changed_queries(before: Matching, now: Matching) -> Int64[np.ndarray, " layers"]:
    """The number of queries whose object changed, in each layer, summed over images:

    IS^e = sum_n [V^e[n] != V^(e-1)[n]],  V[n]: the object of query n, or -1

    These are the queries of the pairs (query, object) that only one of the two matchings has.

    Examples for two objects of one image, whose queries were 0 and 1: if they are 2 and 1 now, IS is 2 (queries 0 and 2
    changed); 1 and 0 give 2, 1 and 2 give 3, 2 and 3 give 4. Both matchings must satisfy `Matching.same_objects`.
    """
    images = np.repeat(np.arange(len(now.counts)), now.counts)
    objects, most = np.arange(len(images)), max(1, len(images))
    width = max(before.queries.max(initial=0), now.queries.max(initial=0)) + 1
    changed: list[int] = []
    for layer in zip(before.queries, now.queries, strict=True):
        # A pair as one number: image, query in it, object.
        pairs = [((images * width + queries) * most + objects)[queries >= 0] for queries in layer]
        changed.append(len(np.unique(np.setxor1d(*pairs) // most)))
    return np.array(changed, np.int64)


def instability(now: Matching, before: Matching | None) -> Instability:
    """The instability from `before`, if it has the same images and objects, to `now`, and between layers of `now`."""
    unstable = (now.queries[1:] != now.queries[:-1]).sum(axis=1)
    objects = now.queries.shape[1]
    if before is None or not now.same_objects(before):
        return Instability(None, None, _over(unstable, objects))
    changed = changed_queries(before, now)
    images = len(now.counts) if objects else 0
    return Instability(_over(changed, images), _over(changed, 2 * objects), _over(unstable, objects))


def _over(values: Int64[np.ndarray, " layers"], total: int) -> tuple[float, ...]:
    return tuple(value / total if total else math.nan for value in values.tolist())


def _plain(values: tuple[float, ...] | None) -> list[float | None] | None:
    return None if values is None else [None if math.isnan(value) else value for value in values]
