"""Detecting with presets on a batch of tensors, in one run: against transformers' Deformable-DETR of the same layers,
where it has that detector, and against the file that `oddetr export` writes, in ONNX Runtime.

python benchmarks/inference.py --model deformable_detr_refine_tiny --image-size 320 --batch 1 8
python benchmarks/inference.py --model dino_r50 --image-size 640

Same backbone of timm, random weights, images and threads; all end in the 100 best detections of each image. A batch of
1 tells the latency, a larger one the throughput.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import peer
import timing
import torch
import transformers
from steps import random_batch

from oddetr.checkpoints.checkpoint import CheckpointInfo
from oddetr.data.dataset import ClassTable
from oddetr.evaluation.postprocessing import postprocess
from oddetr.models.detector import Detector
from oddetr.models.families.build import PRESETS, build_detector
from oddetr.prediction.onnx import write_onnx

CLASSES = 10


def in_pytorch(detector: Detector, size: int, images: int) -> Callable[[], object]:
    batch = random_batch(size, images)

    @torch.inference_mode()
    def detect() -> None:
        postprocess(detector(batch.images, batch.padding_mask), batch.original_sizes, detector.top_k)

    return detect


def in_transformers(preset: str, size: int, images: int) -> Callable[[], object]:
    batch, processor = random_batch(size, images), transformers.DeformableDetrImageProcessor()
    config = PRESETS[preset]
    strides_8_16_32 = [2, 3, 4]  # of the presets' backbones
    backbone = transformers.TimmBackboneConfig(
        backbone=config.backbone, out_indices=strides_8_16_32, use_pretrained_backbone=False
    )
    theirs = peer.deformable_detr(config, backbone, CLASSES).eval()
    mask, sizes = (~batch.padding_mask).long(), batch.original_sizes.tolist()

    @torch.inference_mode()
    def detect() -> None:
        output = theirs(batch.images, pixel_mask=mask)
        processor.post_process_object_detection(output, threshold=0.0, target_sizes=sizes, top_k=100)

    return detect


def in_onnx_runtime(file: Path, size: int, images: int, threads: int) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options)
    pixels = torch.randint(256, (images, size, size, 3), dtype=torch.uint8).numpy()
    inputs = {"images": pixels, "sizes": torch.full((images, 2), size).numpy()}
    return lambda: session.run(None, inputs)


def main() -> None:
    parser = timing.parser(__doc__, threads=2)
    parser.add_argument("--model", choices=PRESETS, nargs="+", default=["deformable_detr_refine_tiny"])
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--without-onnx", action="store_true", help="do not export: it takes half a minute")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [row for preset in arguments.model for row in measure(preset, arguments)]
    timing.show(rows, arguments.json)


def measure(preset: str, arguments: argparse.Namespace) -> list[timing.Row]:
    torch.manual_seed(0)
    config, size = PRESETS[preset].override({"pretrained": False}), arguments.image_size
    detector = build_detector(config, CLASSES).eval()
    names = tuple(map(str, range(CLASSES)))
    info = CheckpointInfo(config, ClassTable(names, tuple(range(CLASSES))), size, detector.mean, detector.std)
    rows: list[timing.Row] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        if not arguments.without_onnx:
            write_onnx(detector, info, file, (size, size))
        for images in arguments.batch:
            work = {"ours": in_pytorch(detector, size, images)}
            if config.variant in peer.VARIANTS:
                work["transformers"] = in_transformers(preset, size, images)
            if not arguments.without_onnx:
                work["ONNX Runtime, our file"] = in_onnx_runtime(file, size, images, arguments.threads)
            times = timing.in_turns(work, arguments.rounds)
            what = f"detecting, {preset}, {images} image(s) of {size} px, {arguments.threads} thread(s)"
            rows += [timing.Row(what, times["ours"], name, times[name]) for name in work if name != "ours"]
    return rows


if __name__ == "__main__":
    main()
