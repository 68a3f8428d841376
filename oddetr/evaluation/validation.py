"""Validation of teacher and student side by side: COCO metrics and matching instability."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from oddetr.common.transfer import to_host
from oddetr.data.dataset import Source
from oddetr.evaluation.coco import Metrics, evaluate_detections
from oddetr.evaluation.detections import Detections
from oddetr.evaluation.instability import Instability, Matching, instability, matched_queries
from oddetr.evaluation.matches import class_thresholds
from oddetr.evaluation.postprocessing import detection_table, from_table
from oddetr.losses.matching import MatchingWeights, hungarian, matching_cost
from oddetr.models.detector import Detector
from oddetr.structures import Batch, Weights


@dataclass(frozen=True)
class Scores:
    """Validation scores of one detector.

    `instability` identifies queries by `Queries.identity`, `by_slot` by their slot (None where that is the same).
    """

    metrics: Metrics
    instability: Instability
    by_slot: Instability | None

    def to_json(self) -> dict[str, Any]:
        """All scores under their names in `metrics.jsonl`."""
        found = self.metrics.to_json() | self.instability.to_json()
        if self.by_slot:
            found["normalised_instability_by_slot"] = self.by_slot.to_json()["normalised_instability"]
        return found


class Found(NamedTuple):
    """The results on one image: detections, and each object's query by identity and by slot."""

    detections: Detections
    queries: Int64[np.ndarray, "layers _"]
    slots: Int64[np.ndarray, "layers _"]


class Validation:
    """The validations of one run. For each: `start`, `add` every batch, `finish`.

    Attributes:
        scores: of the last validation; empty before the first.

    Args:
        source: the validation images.
        detectors: the detectors to validate, by name.
        matching: weights of the matching cost.
    """

    def __init__(self, source: Source, detectors: Mapping[Weights, Detector], matching: MatchingWeights) -> None:
        self.source, self.detectors, self.matching = source, detectors, matching
        self.scores: dict[Weights, Scores] = {}
        self._found: dict[Weights, dict[int, Found]] = {}
        self._before: dict[str, Matching] = {}
        self._judge: Callable[[], dict[str, float]] = dict

    def start(self) -> None:
        """Start a validation."""
        self._found = {name: {} for name in self.detectors}

    def add(self, batch: Batch) -> None:
        """Collect detections and matched queries of a batch, with one transfer to the host.

        Raises:
            NonFiniteCostError: a detector predicts NaN or infinity.
        """
        seen: list[Tensor] = []
        for detector in self.detectors.values():
            memory = detector.encode(batch.images, batch.padding_mask)
            queries = detector.initial_queries(memory).queries
            predictions = detector.decode(memory, {"own": queries})["own"]
            with torch.autocast(batch.images.device.type, enabled=False):
                cost = matching_cost(predictions, batch.truth, self.matching)
            seen += [detection_table(predictions, detector.top_k), queries.identity, cost]
        seen = to_host(seen)
        tables, identities, costs = seen[0::3], seen[1::3], seen[2::3]
        assignments = hungarian(*costs, counts=batch.truth.counts)
        for found, table, identity, assignment in zip(
            self._found.values(), tables, identities, assignments, strict=True
        ):
            slots = torch.arange(identity.shape[1]).expand_as(identity)
            matched = (matched_queries(assignment, names, batch.truth.counts) for names in (identity, slots))
            images = map(Found, from_table(table, batch.original_sizes), *matched)
            found.update(zip(batch.image_ids, images, strict=True))

    def finish(self, processes: int) -> None:
        """Score the images added by all processes; every process computes the same scores."""
        if processes > 1:
            gathered: list[dict[Weights, dict[int, Found]]] = [{} for _ in range(processes)]
            torch.distributed.all_gather_object(gathered, self._found)
            for part in gathered:
                for name, found in part.items():
                    self._found[name] |= found
        truth, classes = self.source.annotations(), self.source.classes
        seen = np.isin(truth.image_ids, [*next(iter(self._found.values()))])
        truth = truth.take(np.flatnonzero(seen))
        matchings: dict[str, Matching] = {}
        self.scores = {}
        for name, found in self._found.items():
            detections = {image: each.detections for image, each in found.items()}
            matching = Matching.of({image: each.queries for image, each in found.items()})
            slots = Matching.of({image: each.slots for image, each in found.items()})
            matchings[name], by_slot = matching, None
            if not np.array_equal(slots.queries, matching.queries):
                matchings[f"{name}_slots"] = slots
                by_slot = instability(slots, self._before.get(f"{name}_slots"))
            metrics = evaluate_detections(truth, classes, detections)
            self.scores[name] = Scores(metrics, instability(matching, self._before.get(name)), by_slot)
            if name == "teacher":
                self._judge = partial(class_thresholds, truth, classes, detections)
        self._found, self._before = {}, matchings

    def thresholds(self) -> dict[str, float]:
        """The teacher's best score threshold of each class, in the last validation; see `class_thresholds`."""
        return self._judge()

    def state(self) -> dict[str, dict[str, Int64[Tensor, "..."]]]:
        """The last matching, for a checkpoint, so that instability continues after a resume."""
        return {name: matching.state() for name, matching in self._before.items()}

    def load(self, state: Mapping[str, Mapping[str, Int64[Tensor, "..."]]]) -> None:
        """Restore the last matching from `state`."""
        self._before = {name: Matching.from_state(matching) for name, matching in state.items()}
