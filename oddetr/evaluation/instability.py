"""How much the matching changes: from validation to validation (DN-DETR, arXiv 2203.01305), and from decoder layer to
decoder layer (Stable-DINO, arXiv 2304.04742)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor


@dataclass(frozen=True)
class Matching:
    """Which query each object of a validation set is matched to: DN-DETR's V, told from the objects' side.

    Attributes:
        image_ids: the images, ascending.
        counts: objects of each image.
        queries: `Queries.identity` of each object's query, the objects of all images one after the other; -1 where an
            object has none, because its image has more objects than queries. No query has two objects of an image.
    """

    image_ids: Int64[np.ndarray, " images"]
    counts: Int64[np.ndarray, " images"]
    queries: Int64[np.ndarray, "layers objects"]

    @classmethod
    def of(cls, found: Mapping[int, Int64[np.ndarray, "layers _"]]) -> "Matching":
        """From what `matched_queries` gives, by image id; at least one image."""
        ids = sorted(found)
        counts = [found[image].shape[1] for image in ids]
        queries = np.concatenate([found[image] for image in ids], axis=1)
        return cls(np.array(ids, np.int64), np.array(counts, np.int64), queries)

    @classmethod
    def from_state(cls, state: Mapping[str, Int64[Tensor, "..."]]) -> "Matching":
        """Reads what `state` gave."""
        return cls(**{name: value.numpy() for name, value in state.items()})

    def state(self) -> dict[str, Int64[Tensor, "..."]]:
        """As tensors, for a checkpoint."""
        return {name: torch.from_numpy(value) for name, value in vars(self).items()}

    def same_objects(self, other: "Matching") -> bool:
        """Whether the other is of the same images, objects and layers."""
        ours, theirs = (self.image_ids, self.counts), (other.image_ids, other.counts)
        return self.queries.shape == other.queries.shape and all(map(np.array_equal, ours, theirs))


@dataclass(frozen=True)
class Instability:
    """How stable the matching is; NaN where there is no object.

    Attributes:
        raw: IS of each decoder layer, queries per image, >= 0; None where nothing comparable came before.
        normalised: IS over its maximum, twice the objects per image (less where they outnumber the queries), in [0, 1];
            None likewise.
        unstable_score: of each decoder layer from the second on, in [0, 1]: the share of objects whose query is not
            that of the layer before.
    """

    raw: tuple[float, ...] | None
    normalised: tuple[float, ...] | None
    unstable_score: tuple[float, ...]

    def to_json(self) -> dict[str, list[float | None] | None]:
        """Under the names of `metrics.jsonl`; None where not defined."""
        return {
            "instability": _plain(self.raw),
            "normalised_instability": _plain(self.normalised),
            "unstable_score": _plain(self.unstable_score),
        }


def matched_queries(
    assignment: Int64[Tensor, "layers batch queries"], identity: Int64[Tensor, "batch queries"], counts: tuple[int, ...]
) -> list[Int64[np.ndarray, "layers _"]]:
    """For each image, the identities of the queries that its objects are matched to, in each layer; -1: to none.

    Identities [50, 60, 70], of which the first has object 1 and the last object 0 (assignment [1, -1, 0]): [70, 50].

    Args:
        counts: objects of each image.
    """
    objects = max(counts, default=0)
    found = identity.new_full((*assignment.shape[:2], objects + 1), -1)
    found.scatter_(-1, assignment.masked_fill(assignment < 0, objects), identity.expand_as(assignment))
    table = found.cpu().numpy()
    return [table[:, image, :count].copy() for image, count in enumerate(counts)]


def changed_queries(before: Matching, now: Matching) -> Int64[np.ndarray, " layers"]:
    """IS^e = sum_n [V^e[n] != V^(e-1)[n]], summed over images, with V[n] the object of query n, -1 without one.

    A query counts once, also where it goes from one object to another. Of the queries matched in either, which are
    |before| + |now| - |both|, those that keep their object do not count:

        IS = |before| + |now| - |matched in both| - |matched to the same object in both|

    Two objects of one image, layer by layer, before -> now:
        queries 0, 1 -> 0, 1 gives 0;   0, 1 -> 2, 1 gives 2 (queries 0 and 2);   0, 1 -> 1, 0 gives 2;
        0, 1 -> 1, 2 gives 3;   0, 1 -> 2, 3 gives 4.

    Both are of the same images, objects and layers (`Matching.same_objects`).
    """
    images = np.repeat(np.arange(len(now.counts)), now.counts)
    had, has = before.queries >= 0, now.queries >= 0
    both = had & _also_in(before.queries, now.queries, images)
    same = had & (before.queries == now.queries)
    return had.sum(axis=1) + has.sum(axis=1) - both.sum(axis=1) - same.sum(axis=1)


def instability(now: Matching, before: Matching | None) -> Instability:
    """What changed since `before`, which may be missing, or of other images or objects; and between layers."""
    unstable = (now.queries[1:] != now.queries[:-1]).sum(axis=1)
    objects = now.queries.shape[1]
    if before is None or not now.same_objects(before):
        return Instability(None, None, _over(unstable, objects))
    changed = changed_queries(before, now)
    images = len(now.counts) if objects else 0
    return Instability(_over(changed, images), _over(changed, 2 * objects), _over(unstable, objects))


def _also_in(
    queries: Int64[np.ndarray, "layers objects"],
    others: Int64[np.ndarray, "layers objects"],
    images: Int64[np.ndarray, " objects"],
) -> Bool[np.ndarray, "layers objects"]:
    """Whether each query is among the others of its layer and image."""
    layers = np.arange(len(queries))[:, None]
    place = layers * (images.max(initial=0) + 1) + images
    width = max(queries.max(initial=0), others.max(initial=0)) + 2
    return np.isin(place * width + queries + 1, place * width + others + 1)


def _over(values: Int64[np.ndarray, " layers"], total: int) -> tuple[float, ...]:
    return tuple(value / total if total else math.nan for value in values.tolist())


def _plain(values: tuple[float, ...] | None) -> list[float | None] | None:
    return None if values is None else [None if math.isnan(value) else value for value in values]
