"""Whether bf16, and on a GPU fp16, train to the AP of fp32: differences seed by seed, with their intervals.

python benchmarks/precision.py --jobs 1 --threads 1
python benchmarks/precision.py --out runs/short --base '{epochs: 1, digits: {train_images: 64}}' --seeds 0,1

Runs are those of `oddetr compare recipes/compare/precision.yaml`: one that is finished is not trained again, and one
that was stopped goes on, so that the same command goes on where it was stopped.
"""

import argparse
import math
import statistics
import sys
from pathlib import Path

import torch
import yaml
from scipy.stats import t

import oddetr
from oddetr.comparison.config import read_config
from oddetr.comparison.records import RunResult

RECIPE = Path(__file__).parents[1] / "recipes" / "compare" / "precision.yaml"
SURE = 0.95


def interval(differences: list[float]) -> tuple[float, float]:
    """Mean and half of the width of the interval that holds the true mean with probability `SURE` (Student's t)."""
    count = len(differences)
    if count < 2:
        return differences[0], math.nan
    width = t.ppf((1 + SURE) / 2, count - 1) * statistics.stdev(differences) / math.sqrt(count)
    return statistics.fmean(differences), float(width)


def show(arm: str, runs: list[RunResult], reference: list[RunResult]) -> None:
    """A line for the teacher, and one for the student."""
    others = {run.seed: run for run in reference}
    pairs = [(run, others[run.seed]) for run in runs if run.seed in others]
    if not pairs:
        return
    minutes = statistics.fmean(ours.minutes for ours, _ in pairs), statistics.fmean(run.minutes for _, run in pairs)
    for weights in ("teacher", "student"):
        scores = [[run.scores[weights]["AP"] for run in pair] for pair in pairs]
        mean, width = interval([ours - theirs for ours, theirs in scores])
        told = ", ".join(f"{ours:.3f} against {theirs:.3f}" for ours, theirs in scores)
        print(f"{arm} - fp32, {weights}: AP {mean:+.4f} ± {width:.4f} ({SURE:.0%}, {len(pairs)} seeds: {told})")
    print(f"minutes of training: {arm} {minutes[0]:.1f}, fp32 {minutes[1]:.1f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/precision"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; 0 only tells what is finished")
    parser.add_argument("--threads", type=int, help="of each run")
    parser.add_argument("--seeds", help="instead of the recipe's: 0,1,2")
    parser.add_argument("--base", type=yaml.safe_load, help="changes of the recipe's base, in YAML")
    options = parser.parse_args()
    arms = [arm for arm in read_config(RECIPE).arms if arm != "fp16" or torch.cuda.is_available()]
    seeds = [int(seed) for seed in options.seeds.split(",")] if options.seeds else None
    given = {"jobs": options.jobs, "threads": options.threads, "seeds": seeds, "base": options.base}
    report = oddetr.compare(RECIPE, out=options.out, arms=arms, **given)
    for arm in arms[1:]:
        show(arm, report.results.get(arm, []), report.results.get("fp32", []))
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
