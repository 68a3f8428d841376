"""Detects by what `oddetr export` wrote, without PyTorch: python detect_with_onnxruntime.py model.onnx photo.jpg"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
metadata = session.get_modelmeta().custom_metadata_map
classes = json.loads(metadata["classes"])
thresholds = json.loads(metadata.get("thresholds", "null")) or [0.3] * len(classes)
_, height, width, _ = session.get_inputs()[0].shape
photo = ImageOps.exif_transpose(Image.open(sys.argv[2]))
if photo.mode.startswith("I"):  # grey values of 16 bits, of which the training data used so many
    upper = np.asarray(photo) >> (json.loads(metadata["grey_bits"]) - 8)
    photo = Image.fromarray(np.minimum(upper, 255).astype(np.uint8))
photo = photo.convert("RGB")
scale = min(height / photo.height, width / photo.width)
size = [max(1, round(side * scale)) for side in photo.size]
resized = photo.resize(size, Image.Resampling.BILINEAR)
canvas = np.zeros((1, height, width, 3), np.uint8)
canvas[0, : resized.height, : resized.width] = resized
boxes, scores, labels = session.run(None, {"images": canvas, "sizes": np.array([[resized.height, resized.width]])})
for box, score, label in zip(boxes[0] * ([photo.width, photo.height] * 2), scores[0], labels[0], strict=True):
    if score >= thresholds[label]:
        print(f"{classes[label]} {score:.3f} at {', '.join(f'{side:.0f}' for side in box)}")
