"""Detecting on a batch of tensors against transformers' Deformable-DETR, in one run: forward pass and post-processing.

python benchmarks/inference.py --size small        # of training_step.py
python benchmarks/inference.py --size paper --batch 4

Both have the same layers, random weights, images and threads, and end in pixel boxes of the 100 best detections.
"""

import timing
import torch
from steps import random_batch
from training_step import CLASSES, SIZES, their_detector
from transformers import DeformableDetrImageProcessor

from oddetr.inference import postprocess
from oddetr.models.presets import build_detector


def main() -> None:
    parser = timing.parser(__doc__, threads=2)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--batch", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    size = SIZES[arguments.size]
    batch = random_batch(size.image_size, arguments.batch)
    mine = build_detector(size.detector, CLASSES).eval()
    theirs, processor = their_detector(size).eval(), DeformableDetrImageProcessor()
    mask, sizes = (~batch.padding_mask).long(), batch.original_sizes.tolist()

    @torch.inference_mode()
    def detect_ours() -> None:
        postprocess(mine(batch.images, batch.padding_mask), batch.original_sizes)

    @torch.inference_mode()
    def detect_theirs() -> None:
        output = theirs(batch.images, pixel_mask=mask)
        processor.post_process_object_detection(output, threshold=0.0, target_sizes=sizes, top_k=100)

    times = timing.in_turns({"ours": detect_ours, "theirs": detect_theirs}, arguments.rounds)
    where = f"{arguments.batch} image(s) of {size.image_size} px, {arguments.threads} thread(s)"
    what = f"detecting, Deformable-DETR, {arguments.size} size, {where}"
    timing.show([timing.Row(what, times["ours"], "transformers", times["theirs"])], arguments.json)


if __name__ == "__main__":
    main()
