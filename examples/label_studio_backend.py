"""A Label Studio ML backend: whoever opens an image there finds the detector's boxes on it, to correct.

    pip install git+https://github.com/HumanSignal/label-studio-ml-backend
    export CHECKPOINT=runs/mine LABEL_STUDIO_URL=http://localhost:8080 LABEL_STUDIO_API_KEY=...
    python examples/label_studio_backend.py

Then add http://localhost:9090 to the project (Settings, Model). Its labeling interface is that of `oddetr predict
--formats labelstudio`, or another with RectangleLabels: classes that are no labels there are not looked for.
"""

import os
from pathlib import Path
from typing import Any

from label_studio_ml.api import init_app
from label_studio_ml.model import LabelStudioMLBase
from label_studio_ml.response import ModelResponse

from oddetr import read_image
from oddetr.prediction.onnx_predictor import open_predictor
from oddetr.prediction.preannotations import as_prediction

CHECKPOINT = os.environ["CHECKPOINT"]  # a run's folder, or an exported model.onnx, which is faster on a CPU
THRESHOLD = float(os.environ.get("THRESHOLD", "0.3"))
PREDICTOR = open_predictor(CHECKPOINT, "teacher", "auto")


class Backend(LabelStudioMLBase):
    """Detects on the images of tasks."""

    def setup(self) -> None:
        self.set("model_version", CHECKPOINT)

    def predict(self, tasks: list[dict], context: dict | None = None, **_: Any) -> ModelResponse:
        control, image, field = self.get_first_tag_occurence("RectangleLabels", "Image")
        labels = self.label_interface.get_control(control).labels
        wanted = [label for label, name in enumerate(PREDICTOR.classes.names) if name in labels]
        if not wanted:
            raise ValueError(f"No label of the project is a class of {CHECKPOINT}: {PREDICTOR.classes.names}.")
        predictions = []
        for task in tasks:
            file = self.get_local_path(task["data"][field], task_id=task.get("id"))
            pixels = read_image(Path(file), PREDICTOR.reading)
            size = pixels.shape[:2]
            (found,) = PREDICTOR.detect([pixels], labels=wanted)
            found = found.above(THRESHOLD).clipped(*size)
            predictions.append(as_prediction(found, size, PREDICTOR.classes, CHECKPOINT, control, image))
        return ModelResponse(predictions=predictions, model_version=CHECKPOINT)


if __name__ == "__main__":
    init_app(model_class=Backend).run(port=9090)
