"""Adapter of a detector to SAHI's sliced prediction (the `sahi` extra).

    from sahi.predict import get_sliced_prediction

    model = OddetrDetectionModel(model_path="runs/cells", confidence_threshold=0.4)
    result = get_sliced_prediction("large.png", model, slice_height=640, slice_width=640, batch_size=8)

`oddetr predict --slice 640` needs no SAHI.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from oddetr.evaluation.detections import Detections
from oddetr.prediction.predictor import Predictor

try:
    from sahi.models.base import DetectionModel
    from sahi.prediction import ObjectPrediction
except ImportError as error:
    raise ImportError("oddetr.integrations.sahi needs SAHI: pip install sahi.") from error

Pair = Sequence[int | float]


class OddetrDetectionModel(DetectionModel):
    """SAHI's detection model with a checkpoint as `model_path`, or a `Predictor` as `model`.

    Category ids are the data set's original ones. SAHI's `image_size`, if given, replaces the checkpoint's: the shorter
    side in pixels to which slices are resized.
    """

    model: Predictor | None

    def load_model(self) -> None:
        """Reads the checkpoint at `model_path`.

        Raises:
            ValueError: there is no `model_path`.
            CheckpointError: there is no checkpoint, or it cannot be read.
        """
        if not self.model_path:
            raise ValueError("Give model_path, a run's folder or a checkpoint in it, or model, an oddetr.Predictor.")
        self.set_model(Predictor.load(Path(self.model_path)))

    def set_model(self, model: Predictor) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Uses a loaded detector, or a copy of it on SAHI's device."""
        device = torch.device(self.device)
        info = model.info if self.image_size is None else replace(model.info, image_size=self.image_size)
        detector = model.detector if device == model.device else deepcopy(model.detector).to(device)
        self.model = replace(model, detector=detector, info=info, device=device)
        self.category_mapping = dict(zip(map(str, info.classes.ids), info.classes.names, strict=True))

    @property
    def num_categories(self) -> int:
        """Number of classes."""
        return len(self._loaded.classes)

    @property
    def category_names(self) -> list[str]:
        """Names of the classes, by label."""
        return list(self._loaded.classes.names)

    @property
    def has_mask(self) -> bool:
        """False: detectors give boxes only."""
        return False

    @property
    def _loaded(self) -> Predictor:
        if self.model is None:
            raise ValueError("No detector is loaded: call load_model first.")
        return self.model

    def perform_inference(self, image: UInt8[np.ndarray, "height width 3"]) -> None:
        """Detects on an RGB image."""
        self.perform_batch_inference([image])

    def perform_batch_inference(self, images: list[UInt8[np.ndarray, "_ _ 3"]]) -> None:
        """Detects on RGB images, in one batch."""
        found = self._loaded.detect(images)
        self._original_predictions = [
            detections.above(self.confidence_threshold).clipped(*image.shape[:2])
            for image, detections in zip(images, found, strict=True)
        ]

    def _create_object_prediction_list_from_original_predictions(
        self,
        shift_amount_list: Any = None,
        full_shape_list: Any = None,
    ) -> None:
        found: list[Detections] = self._original_predictions
        shifts, shapes = _each(shift_amount_list, len(found), [0, 0]), _each(full_shape_list, len(found), None)
        self._object_prediction_list_per_image = [
            self._objects(*each) for each in zip(found, shifts, shapes, strict=True)
        ]

    def _objects(self, found: Detections, shift: Pair | None, shape: Pair | None) -> list[ObjectPrediction]:
        classes = self._loaded.classes
        return [
            ObjectPrediction(
                bbox=box,
                category_id=classes.ids[label],
                category_name=classes.names[label],
                score=score,
                shift_amount=list(shift or [0, 0]),
                full_shape=None if shape is None else list(shape),
            )
            for box, label, score in zip(
                found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
            )
            if box[0] < box[2] and box[1] < box[3]
        ]


def _each(given: Any, count: int, missing: Pair | None) -> list[Pair | None]:
    """A pair for each image: SAHI gives one pair of numbers for all, or a list of pairs, or None."""
    if given is None:
        return [missing] * count
    return [given] * count if isinstance(given[0], int | float) else list(given)
