"""Quantises an exported detector to int8 by OpenVINO's own tool, and writes it only if it scores about as well.

    pip install openvino nncf
    python examples/openvino_int8.py model.onnx DIR --out model_int8.xml

DIR is the data set: its training images calibrate, its validation images are scored.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import nncf
import openvino

from oddetr.data.dataset import Source
from oddetr.data.sources import open_sources
from oddetr.evaluation.coco import evaluate_detections
from oddetr.prediction.onnx import WithProcessing
from oddetr.prediction.onnx_predictor import OnnxPredictor

CALIBRATE = 300  # training images at most


def average_precision(exported: OnnxPredictor, model: openvino.Model, source: Source) -> float:
    """COCO's AP of a model on a split whose classes are the detector's, in 0-1."""
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    predictor = replace(exported, run=lambda *given: list(compiled(given).values()))
    samples = map(source.sample, range(len(source)))
    found = {sample.image_id: predictor.detect([sample.image])[0] for sample in samples}
    return evaluate_detections(source.annotations(), source.classes, found).ap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="what `oddetr export` wrote")
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, default=Path("model_int8.xml"))
    parser.add_argument("--most-loss", type=float, default=0.01, help="of AP, in 0-1; default: %(default)s")
    options = parser.parse_args()
    exported, model = OnnxPredictor.load(options.model), openvino.Core().read_model(options.model)
    train, val = (open_sources(options.data)[split] for split in ("train", "val"))
    if exported.classes.names != val.classes.names:
        parser.error(f"the file's classes are {exported.classes.names}, those of the data {val.classes.names}.")
    images = (exported.inputs([each.image]) for each in map(train.sample, range(min(CALIBRATE, len(train)))))
    calibration = nncf.Dataset([dict(zip(WithProcessing.inputs, each, strict=True)) for each in images])
    quantised = nncf.quantize(model, calibration, model_type=nncf.ModelType.TRANSFORMER)
    before, after = (average_precision(exported, each, val) for each in (model, quantised))
    print(f"AP {before:.3f} as exported, {after:.3f} in int8")
    if before - after > options.most_loss:
        raise SystemExit(f"Not written: int8 loses more than {options.most_loss} of AP.")
    openvino.save_model(quantised, options.out)


if __name__ == "__main__":
    main()
