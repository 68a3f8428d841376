"""A detector as a service: send an image, get what is on it as JSON.

    pip install fastapi uvicorn
    CHECKPOINT=runs/mine uvicorn --app-dir examples fastapi_service:app
    curl --data-binary @photo.jpg 'localhost:8000/detect?threshold=0.4'

Anyone who reaches the port may ask: put whatever checks who asks, and how often, in front of it.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool

from oddetr import read_image
from oddetr.data.images import ImageError
from oddetr.prediction.onnx_predictor import open_predictor

LARGEST = 20 * 2**20  # bytes of a file
PREDICTOR = open_predictor(os.environ["CHECKPOINT"], "teacher", "auto")  # or an exported model.onnx: faster on a CPU
ONE_AT_A_TIME = Lock()  # one image already uses all cores

app = FastAPI(title="oddetr")


@app.get("/classes")
def classes() -> list[str]:
    return list(PREDICTOR.classes.names)


@app.post("/detect")
async def detect(request: Request, threshold: Annotated[float, Query(ge=0, le=1)] = 0.3) -> list[dict]:
    """Class, score and box (left, top, width, height, in pixels of the upright image), best first."""
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > LARGEST:
            raise HTTPException(413, f"An image has {LARGEST} bytes at most.")
    return await run_in_threadpool(detect_on, content, threshold)


def detect_on(content: bytes, threshold: float) -> list[dict]:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "image"
        file.write_bytes(content)
        try:
            pixels = read_image(file, PREDICTOR.reading)
        except ImageError as error:
            raise HTTPException(415, "The body is no image that can be read.") from error
    with ONE_AT_A_TIME:
        (found,) = PREDICTOR.detect([pixels])
    found = found.above(threshold).clipped(*pixels.shape[:2])
    names = [PREDICTOR.classes.names[label] for label in found.labels]
    results = zip(names, found.to_coco(0, PREDICTOR.classes), strict=True)
    return [{"class": name, "score": each["score"], "box": each["bbox"]} for name, each in results]
