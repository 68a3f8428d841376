"""All CPU benchmarks, one after the other, in one table (`make bench`).

python benchmarks/all.py
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import timing

COMMANDS = (
    "deformable_attention.py --threads 1",
    "backbone.py --threads 1",
    "training_step.py --size small",
    "training_step.py --size paper --rounds 3",
    "distillation_cost.py --threads 2 --arms full",
    "distillation_cost.py --threads 2 --arms full --rounds 3 --batch 2 --image-size 640 "
    "--model deformable_detr_refine_r50",
    "inference.py --batch 1 8 --model deformable_detr_tiny deformable_detr_refine_tiny deformable_detr_two_stage_tiny "
    "dab_deformable_detr_tiny dino_tiny",
    "inference.py --image-size 640 --rounds 3 --without-onnx --model deformable_detr_r50",
    "reading.py",
    "evaluation.py --threads 1",
)


def main() -> None:
    begun = time.perf_counter()
    rows: list[timing.Row] = []
    for command in COMMANDS:
        print(f"{time.perf_counter() - begun:5.0f} s  {command}", file=sys.stderr, flush=True)
        script, *options = command.split()
        call = [sys.executable, str(Path(__file__).with_name(script)), *options, "--json"]
        printed = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows += [timing.Row(**json.loads(line)) for line in printed.splitlines() if line.startswith("{")]
    timing.show(rows)
    print(f"\n{(time.perf_counter() - begun) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
