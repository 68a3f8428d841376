"""When OD-DETR pays: its gain over the QFL baseline as one thing at a time varies, on fixed digit scenes.

python benchmarks/when_it_pays.py runs/when --seeds 200,201 --jobs 2          # hours; the same command goes on
python benchmarks/when_it_pays.py runs/when --only objects=1 images=320       # these settings alone
python benchmarks/when_it_pays.py runs/when --jobs 0 --json when.json         # the table of what is finished

A setting is the middle one (1 to 12 digits of 10 to 60 px in a scene of 128 px, 1,280 training scenes, 800 steps of 8,
50 queries, Deformable-DETR with refinement) with one thing changed. Each has data of its own below FOLDER/data, written
once, and is a comparison (`oddetr compare`) of three arms in FOLDER/NAME: baseline, OD-DETR without rivals, OD-DETR.
"""

import argparse
import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oddetr.comparison.compare import compare
from oddetr.comparison.config import ComparisonConfig
from oddetr.data.digits import DigitScenes
from oddetr.data.writer import write_coco

BATCH = 8
ARMS: dict[str, Any] = {"qfl": None, "no_rivals": {"like": "oddetr_constant"}, "oddetr": None}
MODELS = {
    "refine": "deformable_detr_refine_tiny",
    "two_stage": "deformable_detr_two_stage_tiny",
    "dab": "dab_deformable_detr_tiny",
    "dino": "dino_tiny",
}


@dataclass(frozen=True)
class Setting:
    """What is learned, and for how long."""

    objects: tuple[int, int] = (1, 12)
    heights: tuple[float, float] = (10.0, 60.0)
    images: int = 1280
    steps: int = 800
    queries: int = 50
    model: str = "refine"

    @property
    def data(self) -> str:
        """The name of its data: settings of equal data share it."""
        return f"{self.objects[0]}-{self.objects[1]}_{self.heights[0]:g}-{self.heights[1]:g}_{self.images}"


MIDDLE = Setting()
SETTINGS: dict[str, Setting] = {
    "middle": MIDDLE,
    "objects=1": replace(MIDDLE, objects=(1, 1)),
    "objects=4": replace(MIDDLE, objects=(4, 4)),
    "objects=12": replace(MIDDLE, objects=(12, 12)),
    "heights=10-16": replace(MIDDLE, heights=(10.0, 16.0)),
    "heights=30-60": replace(MIDDLE, heights=(30.0, 60.0), objects=(4, 4)),
    "heights=10-16,objects=4": replace(MIDDLE, heights=(10.0, 16.0), objects=(4, 4)),
    "images=320": replace(MIDDLE, images=320),
    "images=6400": replace(MIDDLE, images=6400),
    "steps=400": replace(MIDDLE, steps=400),
    "steps=1600": replace(MIDDLE, steps=1600),
    "queries=25": replace(MIDDLE, queries=25),
    "queries=100": replace(MIDDLE, queries=100),
    "model=dino": replace(MIDDLE, model="dino"),
}


def write_data(folder: Path, setting: Setting) -> Path:
    """The scenes of a setting in COCO's layout; those that are there already stay."""
    data = folder / "data" / setting.data
    for split, count in (("train", setting.images), ("val", 250), ("test", 500)):
        if not (data / "annotations" / f"instances_{split}.json").exists():
            length = count if split == "train" else None
            source = DigitScenes(split, length, objects=setting.objects, heights=setting.heights)  # pyright: ignore
            write_coco(source, data, split, count)
    return data


def comparison(folder: Path, name: str, setting: Setting, arguments: argparse.Namespace) -> ComparisonConfig:
    """The comparison of a setting; its length is in whole epochs, the nearest to the number of steps."""
    epochs = max(1, round(setting.steps / (setting.images / BATCH)))
    base = {
        "data": str(write_data(folder, setting)),
        "model": MODELS[setting.model],
        "detector": {"width": 96, "ffn_width": 384, "num_queries": setting.queries},
        "epochs": epochs,
        "validate_every": max(1, round(epochs / 5)),
        "image_size": 128,
        "batch_size": BATCH,
        "workers": 0,
        "optimizer": {"learning_rate": 1e-3, "backbone_factor": 0.4, "schedule": "step", "drop_at": 0.85},
        "augment": {"min_scale": 1.0, "crop": False, "flip": False},
    }
    return ComparisonConfig(
        base=base, arms=ARMS, seeds=arguments.seeds, out=folder / name, jobs=arguments.jobs, threads=1, split="test"
    )


def row(name: str, results: dict[str, list[Any]]) -> dict[str, Any]:
    """Means over the seeds that the arm and the baseline have finished; differences seed by seed."""
    scores = {arm: {run.seed: run.scores["teacher"] for run in runs} for arm, runs in results.items()}
    told: dict[str, Any] = {"setting": name, "baseline": [score["AP"] for score in scores.get("qfl", {}).values()]}
    for arm in ("no_rivals", "oddetr"):
        pairs = [(scores[arm][seed], scores["qfl"][seed]) for seed in scores.get(arm, {}) if seed in scores["qfl"]]
        for key, short in (("AP", ""), ("AP_without_duplicates", "_without_duplicates")):
            told[arm + short] = [ours[key] - theirs[key] for ours, theirs in pairs]
    return told


def text(values: list[float], sign: str = "+") -> str:
    """The mean, and least and greatest."""
    if not values:
        return "-"
    spread = f" ({min(values):{sign}.3f} to {max(values):{sign}.3f})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.3f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=lambda words: tuple(map(int, words.split(","))), default=(200, 201))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time; 0: the table of what is finished")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=[*SETTINGS])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in arguments.only:
        config = comparison(arguments.folder, name, SETTINGS[name], arguments)
        try:
            rows.append(row(name, compare(config, arms=arguments.arms).results))
        except ValueError as error:
            print(f"{name}: {error}")
    print("| setting | baseline AP | OD-DETR without rivals | OD-DETR | OD-DETR, duplicates suppressed in both |")
    print("| --- | --- | --- | --- | --- |")
    for each in rows:
        parts = (each["no_rivals"], each["oddetr"], each["oddetr_without_duplicates"])
        print(f"| {each['setting']} | {text(each['baseline'], '')} | {' | '.join(text(part) for part in parts)} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
