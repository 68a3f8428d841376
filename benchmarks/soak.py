"""A long training of digit scenes with a validation every epoch: memory, file handles, threads and time per step.

python benchmarks/soak.py runs/soak --minutes 120     # samples.csv as it goes, then soak.json, soak.png and a table
python benchmarks/soak.py --evaluate runs/soak        # the latter from what was sampled, also of one that goes on

The training is the quickstart's, through `oddetr.train`, in a process of its own with one worker each that loads images
for training and for validation. It is sampled from outside (/proc: Linux only), stopped by Ctrl-C at the end, and must
have saved then. All figures are of what follows the warm-up. The slope of memory is by least squares through the means
of `BLOCKS` parts of equal length, whose scatter gives its standard error. A step's CPU seconds are those of whole
epochs, validation and checkpoints included, of the training and its workers: other programs on the machine move them
less than the clock's.
Handles are judged by their medians: a file that is open just when a sample is taken is no growth.
Exit status 1: a promise is broken (`LIMITS`), or the training ended by itself.
"""

import argparse
import csv
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import linregress

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "quickstart.yaml"
EPOCHS = 2000
"""More than fit into any soak: the clock ends it."""
BLOCKS = 20
MEMORIES = ("own", "training", "workers")
"""Fields of `Sample`, each of which must be flat."""
LIMITS = {"memory, % per hour": 1.0, "handles": 0.0, "slowdown, %": 5.0}
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """One look at the training.

    Attributes:
        seconds: since the soak began.
        processes: the training and its workers.
        training: MiB of the training's process that are no files'.
        workers: the same of the loading processes. They begin as copies of the training's: what they still share with
            it or with each other is counted in each.
        own: MiB of all processes that are no files', what they share counted once. It rises where a process writes for
            the first time to what it shared, which no other figure does.
        handles: open file handles of all processes.
        threads: of all processes.
        cpu: CPU seconds of all processes so far, ended ones included.
        step, epoch, training_seconds: of the last event in metrics.jsonl; 0 before the first.
        event_began: when the run began by that event, in seconds since the soak began.
    """

    seconds: float
    processes: int
    training: float
    workers: float
    own: float
    handles: int
    threads: int
    cpu: float
    step: int
    epoch: int
    training_seconds: float
    event_began: float


def processes_of(process: int) -> list[int]:
    """It and all that descend from it."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int(_status(int(folder.name))[1])
            except OSError:
                continue  # it has ended
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def _status(process: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, which may hold blanks; the first is the state."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


def _not_files(process: int) -> float:
    return _mebibytes(f"/proc/{process}/status", "RssAnon", "RssShmem")


def _mebibytes(file: str, *names: str) -> float:
    text = Path(file).read_text()
    return sum(int(text.split(f"\n{name}:")[1].split()[0]) for name in names) / 1024


def take(process: int, run: Path, begun: float) -> Sample:
    """A sample of the training and its workers.

    Raises:
        OSError: one of the processes ended meanwhile.
    """
    all_of_them = processes_of(process)
    status = [_status(one) for one in all_of_them]
    ended = sum(int(part) for part in status[0][13:15])
    step, epoch, trained, began = _last_event(run / "metrics.jsonl")
    return Sample(
        time.time() - begun,
        len(all_of_them),
        _not_files(process),
        sum(_not_files(one) for one in all_of_them if one != process),
        sum(_mebibytes(f"/proc/{one}/smaps_rollup", "Pss_Anon", "Pss_Shmem") for one in all_of_them),
        sum(len(list(Path(f"/proc/{one}/fd").iterdir())) for one in all_of_them),
        sum(int(parts[17]) for parts in status),
        (sum(int(part) for parts in status for part in parts[11:13]) + ended) / _TICK,
        step,
        epoch,
        trained,
        began - begun,
    )


def _last_event(file: Path) -> tuple[int, int, float, float]:
    if not file.exists():
        return 0, 0, 0.0, math.nan
    written, lines = file.stat().st_mtime, file.read_text().splitlines()
    if not lines or not lines[-1].endswith("}"):
        return 0, 0, 0.0, math.nan
    event = json.loads(lines[-1])
    return event["step"], event["epoch"], event["training_seconds"], written - event["seconds"]


def train(folder: Path, workers: int, images: int) -> None:
    """The training's process, until Ctrl-C."""
    import torch
    import yaml

    import oddetr

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    recipe = yaml.safe_load(RECIPE.read_text())
    changed = {"epochs": EPOCHS, "validate_every": 1, "workers": workers}
    recipe["digits"] |= {"train_images": images}
    recipe["optimizer"] |= {"warmup": 0.0}  # of so long a run the warm-up alone would take hours
    try:
        oddetr.train(**recipe | changed, out=folder / "run")
    except KeyboardInterrupt:
        print("stopped by Ctrl-C")


def soak(folder: Path, arguments: argparse.Namespace) -> None:
    """Trains for `--minutes` and writes a sample every `--every` seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "run").exists():
        raise SystemExit(f"{folder / 'run'} is there already: name another folder, or --evaluate {folder}.")
    threads = {f"{name}_NUM_THREADS": str(arguments.threads) for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    numbers = ["--workers", str(arguments.workers), "--images", str(arguments.images)]
    command = [sys.executable, __file__, str(folder), "--train", *numbers]
    begun = time.time()
    with (folder / "train.log").open("w") as log, (folder / "samples.csv").open("w", newline="") as stream:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | threads)
        writer = csv.writer(stream)
        writer.writerow(field.name for field in fields(Sample))
        alone = False
        try:
            while time.time() - begun < arguments.minutes * 60 and not alone:
                alone = _sampled(child, folder, begun, writer)
                stream.flush()
                time.sleep(arguments.every)
        finally:
            last = child.poll() is None
            if last:
                child.send_signal(signal.SIGINT)
            status = child.wait(900)
    saved = (folder / "run" / "last" / "checkpoint.json").exists()
    ended = {"exit_status": status, "ended_by_itself": not last, "saved": saved}
    settings = {name: getattr(arguments, name) for name in ("minutes", "every", "threads", "workers", "images")}
    (folder / "ended.json").write_text(json.dumps(settings | ended | machine(), indent=1))


def _sampled(child: subprocess.Popen[bytes], folder: Path, begun: float, writer: Any) -> bool:
    """Whether the training has ended; if not, a row is written."""
    if child.poll() is not None:
        return True
    try:
        sample = take(child.pid, folder / "run", begun)
    except OSError:
        return False  # a worker began or ended just now
    writer.writerow(round(getattr(sample, field.name), 3) for field in fields(Sample))
    return False


def machine() -> dict[str, Any]:
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"processor": processor, "cores": os.cpu_count()} | versions


def read_samples(file: Path) -> list[Sample]:
    """Of samples.csv; a row that is being written is none."""
    with file.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if None not in row.values()]
    return [
        Sample(**{field.name: field.type(row[field.name]) for field in fields(Sample)})  # type: ignore[operator]
        for row in rows
    ]


@dataclass(frozen=True)
class Epochs:
    """What an epoch cost, by its end: `minutes` since the soak began, CPU and wall seconds of a step with its share of
    the epoch's validation and checkpoints, and wall seconds of a training step alone."""

    minutes: list[float]
    cpu: list[float]
    wall: list[float]
    training: list[float]


def epochs_of(samples: Sequence[Sample], run: Path) -> Epochs:
    """By the clock of the run's events, which is matched to that of the samples."""
    began = median(sample.event_began for sample in samples if not math.isnan(sample.event_began))
    lines = [line for line in (run / "metrics.jsonl").read_text().splitlines() if line.endswith("}")]
    events = [event for event in map(json.loads, lines) if event["kind"] == "epoch"]
    ends = [began + event["seconds"] for event in events]
    cpu = np.interp(ends, [sample.seconds for sample in samples], [sample.cpu for sample in samples])
    found = Epochs([], [], [], [])
    for k in range(1, len(events)):
        if ends[k] > samples[-1].seconds:
            break
        steps = events[k]["step"] - events[k - 1]["step"]
        found.minutes.append(ends[k] / 60)
        found.cpu.append(float(cpu[k] - cpu[k - 1]) / steps)
        found.wall.append((ends[k] - ends[k - 1]) / steps)
        found.training.append((events[k]["training_seconds"] - events[k - 1]["training_seconds"]) / steps)
    return found


def slope(minutes: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    """Per hour, with its standard error, through the means of `BLOCKS` parts of equal length."""
    edges = np.linspace(minutes[0], minutes[-1], BLOCKS + 1)
    block = np.clip(np.digitize(minutes, edges) - 1, 0, BLOCKS - 1)
    used = sorted(set(block.tolist()))
    points = [[np.mean(np.asarray(side)[block == one]) for one in used] for side in (minutes, values)]
    line = linregress(np.asarray(points[0]) / 60, points[1])
    return {"per_hour": float(line.slope), "standard_error": float(line.stderr), "mean": float(np.mean(values))}


def quarters(minutes: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """The values in the first and in the last quarter of the time."""
    quarter = (minutes[-1] - minutes[0]) / 4
    first = [value for at, value in zip(minutes, values, strict=True) if at <= minutes[0] + quarter]
    return first, [value for at, value in zip(minutes, values, strict=True) if at >= minutes[-1] - quarter]


def evaluate(folder: Path, warm_up: float) -> dict[str, Any]:
    """All figures, of what follows `warm_up` minutes."""
    everything = read_samples(folder / "samples.csv")
    samples = [sample for sample in everything if sample.seconds >= warm_up * 60]
    if len(samples) < 2 * BLOCKS:
        raise SystemExit(f"{len(samples)} samples after {warm_up:g} minutes are too few; at least {2 * BLOCKS}.")
    minutes = [sample.seconds / 60 for sample in samples]
    found: dict[str, Any] = {"minutes": samples[-1].seconds / 60, "warm_up": warm_up, "samples": len(samples)}
    for name in MEMORIES:
        found[name] = slope(minutes, [getattr(sample, name) for sample in samples])
    for name in ("handles", "threads", "processes"):
        first, last = quarters(minutes, [getattr(sample, name) for sample in samples])
        found[name] = {"first": median(first), "last": median(last), "first_most": max(first), "last_most": max(last)}
    epochs = epochs_of(everything, folder / "run")
    after = [k for k, minute in enumerate(epochs.minutes) if minute >= warm_up]
    found |= {"epochs": len(after), "steps": samples[-1].step}
    for name in ("cpu", "wall", "training"):
        first, last = quarters([epochs.minutes[k] for k in after], [getattr(epochs, name)[k] for k in after])
        found[f"{name}_seconds_per_step"] = {
            "first": mean(first),
            "last": mean(last),
            "ratio": mean(last) / mean(first),
        }
    found["kept"] = kept(found)
    ended = folder / "ended.json"
    found["ended"] = json.loads(ended.read_text()) if ended.exists() else None
    draw(everything, epochs, found, folder / "soak.png")
    (folder / "soak.json").write_text(json.dumps(found, indent=1))
    return found


def kept(found: dict[str, Any]) -> dict[str, bool]:
    """Which promises are."""
    measured = {
        "memory, % per hour": max(100 * found[name]["per_hour"] / found[name]["mean"] for name in MEMORIES),
        "handles": found["handles"]["last"] - found["handles"]["first"],
        "slowdown, %": 100 * (found["cpu_seconds_per_step"]["ratio"] - 1),
    }
    return {name: measured[name] <= most for name, most in LIMITS.items()}


def draw(samples: Sequence[Sample], epochs: Epochs, found: dict[str, Any], file: Path) -> None:
    """Memory with its slope, handles and threads, and seconds of a step."""
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    memory, handles, times = figure.subplots(1, 3)
    minutes = [sample.seconds / 60 for sample in samples]
    for name, label, colour in (
        ("own", "all, the shared counted once", "#0072B2"),
        ("training", "training", "#D55E00"),
        ("workers", "loading processes", "#009E73"),
    ):
        line = found[name]
        told = f"{label}: {line['per_hour']:+.1f} ± {line['standard_error']:.1f} MiB an hour"
        memory.plot(minutes, [getattr(sample, name) for sample in samples], color=colour, label=told)
    memory.set_ylabel("MiB")
    for name, colour in (("handles", "#0072B2"), ("threads", "#D55E00")):
        handles.plot(minutes, [getattr(sample, name) for sample in samples], color=colour, label=name)
    for name, label, colour in (
        ("cpu", "CPU", "#0072B2"), ("wall", "clock", "#D55E00"), ("training", "clock, without validation", "#999999"),
    ):  # fmt: skip
        times.plot(epochs.minutes, getattr(epochs, name), ".-", color=colour, label=label)
    times.set_ylabel("seconds a step")
    for axes in (memory, handles, times):
        axes.axvline(found["warm_up"], color="#999999", linestyle=":")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("minutes")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")
    figure.savefig(file, dpi=90)


def line_of(found: dict[str, Any]) -> str:
    """A row of a Markdown table, below its head."""
    memory = [f"{found[name]['mean']:.0f} MiB, {found[name]['per_hour']:+.1f} ± {found[name]['standard_error']:.1f}"
              for name in MEMORIES]  # fmt: skip
    counts = [f"{found[name]['first_most']:g}, {found[name]['last_most']:g}" for name in ("handles", "threads")]
    times = [f"{side['first']:.3f}, {side['last']:.3f} ({100 * (side['ratio'] - 1):+.1f} %)"
             for side in (found[f"{name}_seconds_per_step"] for name in ("cpu", "wall"))]  # fmt: skip
    cells = [f"{found['minutes']:.0f}", f"{found['steps']:,}", f"{found['epochs']}", *memory, *counts, *times]
    head = (
        "| minutes | steps | epochs after warm-up | memory of all, MiB an hour | of the training "
        "| of the loading processes | handles, first and last quarter | threads | CPU s a step | wall s a step |"
    )
    return "\n".join((head, "|" + " --- |" * len(cells), f"| {' | '.join(cells)} |"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="a new folder, for the run and what is sampled")
    parser.add_argument("--minutes", type=float, default=120, help="default: %(default)s")
    parser.add_argument("--warm-up", type=float, default=10, help="minutes that do not count; default: %(default)s")
    parser.add_argument("--every", type=float, default=10, help="seconds between samples; default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes that load images; default: %(default)s",
    )
    parser.add_argument("--images", type=int, default=1280, help="scenes of an epoch; default: %(default)s")
    parser.add_argument("--evaluate", type=Path, metavar="FOLDER", help="no training: from samples.csv in FOLDER")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.evaluate or arguments.folder
    if folder is None:
        parser.error("name a new folder, or --evaluate one")
    if arguments.train:
        train(folder, arguments.workers, arguments.images)
        return
    if not arguments.evaluate:
        soak(folder, arguments)
    found = evaluate(folder, arguments.warm_up)
    print(line_of(found))
    ended = found["ended"] or {"ended_by_itself": False, "exit_status": 0, "saved": True}
    broken = [name for name, held in found["kept"].items() if not held]
    broken += ["it ended by itself"] if ended["ended_by_itself"] or ended["exit_status"] or not ended["saved"] else []
    raise SystemExit(f"broken: {', '.join(broken)}" if broken else 0)


if __name__ == "__main__":
    main()
