"""Side by side with what a user would pick instead: the same images, threads and wall-clock, scored by one evaluator.

python -m benchmarks.peers --data bccd cards --minutes 20 --threads 1 --out runs/peers      # in the repository's root

oddetr: `oddetr train --data DIR --hours H`, nothing else set.
transformers: its Deformable-DETR of the same sizes, its Trainer, and the settings of its example.
transformers_at_our_rate: the same with oddetr's learning rate and batch size.
yolo11n: ultralytics' YOLO11n with its defaults, in an environment of its own.

Nobody downloads anything: all start from ImageNet or from random weights. Each trains in one process with so many
threads, which loads its images itself, and sees train and val alone. The clock runs from the start of the process to
the last of its weights on the disk. All are scored on test by oddetr's own COCO evaluation. A contestant that has
finished (OUT/DATA/PEER/result.json) is not run again.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from oddetr.data.dataset import DetectionData

from .data import export_yolo, read_splits, score
from .environment import ultralytics_python, variables
from .task import Task

MODULES = {
    "oddetr": "ours",
    "transformers": "hugging_face",
    "transformers_at_our_rate": "hugging_face",
    "yolo11n": "yolo",
}
USUAL = 640
"""ultralytics' own `imgsz`."""
WEIGHTS = (".safetensors", ".pt")
HEADER = ("data", "contestant", "starts from", "image size", "epochs", "seconds", "CPU seconds", "AP", "AP50")


def run(command: list[str], log: Path, arguments: argparse.Namespace) -> float:
    """Run a command to its end, its output in a file, and return the CPU seconds that it took.

    Raises:
        ChildProcessError: it failed; TimeoutExpired: it takes more than twice its time, and ten minutes.
    """
    print(f"{time.strftime('%H:%M:%S')}  {' '.join(command[1:4])}: {log}", flush=True)
    before, limit = resource.getrusage(resource.RUSAGE_CHILDREN), 120 * arguments.minutes + 600
    environment = variables(arguments.threads, arguments.out)
    with log.open("w") as output:
        places: dict[str, Any] = {"cwd": log.parent, "env": environment, "stdout": output, "stderr": subprocess.STDOUT}
        code = subprocess.run(command, timeout=limit, **places).returncode
    if code:
        end = "\n".join(log.read_text().splitlines()[-12:])
        raise ChildProcessError(f"It ended with code {code}; the end of {log}:\n{end}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def contest(data: Path, splits: dict[str, DetectionData], peer: str, arguments: argparse.Namespace) -> None:
    """Train a contestant, let it detect, and write its result.json; what an earlier, unfinished try left is removed."""
    size, python = arguments.imgsz, sys.executable
    name = f"{peer}_{size}" if peer == "yolo11n" and size != USUAL else peer
    out, yolo = arguments.out / data.name / name, arguments.out / data.name / "yolo"
    if (out / "result.json").exists():
        return
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    if peer == "yolo11n":
        python = str(ultralytics_python(arguments.environment or arguments.out / "environment"))
        export_yolo(splits, yolo)
    begun = time.time()
    until = begun + 60 * arguments.minutes
    task = Task(peer, str(data), str(yolo), str(out), until, arguments.threads, arguments.seed, size)
    (out / "task.json").write_text(json.dumps(asdict(task)))
    command = [python, "-m", f"benchmarks.peers.{MODULES[peer]}"]
    cpu = run([*command, "train", "task.json"], out / "train.txt", arguments)
    seconds = max(file.stat().st_mtime for file in out.rglob("*") if file.suffix in WEIGHTS) - begun
    told = json.loads((out / "told.json").read_text())
    if told["threads"] != arguments.threads:
        raise ValueError(f"{peer} trained with {told['threads']} threads, not with {arguments.threads}.")
    run([*command, "detect", "task.json"], out / "detect.txt", arguments)
    scores = score(json.loads((out / "detections.json").read_text()), splits["test"]).to_json()
    result = {"data": data.name, "contestant": name, **told, "seconds": seconds, "cpu_seconds": cpu, "scores": scores}
    (out / "result.json").write_text(json.dumps(result, indent=1))


def check_settings(arguments: argparse.Namespace) -> None:
    """All results of a folder are of one length, number of threads, and seed.

    Raises:
        ValueError: the folder holds others, or two data sets have the same name.
    """
    file, names = arguments.out / "settings.json", [data.name for data in arguments.data]
    if len({*names}) < len(names):
        raise ValueError(f"Two data sets have the same name: {', '.join(names)}. Rename a folder.")
    settings = {name: getattr(arguments, name) for name in ("minutes", "threads", "seed")}
    arguments.out.mkdir(parents=True, exist_ok=True)
    if file.exists() and (there := json.loads(file.read_text())) != settings:
        raise ValueError(f"{arguments.out} holds results of {there}, not of {settings}. Give another --out.")
    file.write_text(json.dumps(settings))


def table(folder: Path) -> str:
    """All results of a folder in Markdown, and what they have in common."""
    common = "{minutes:g} minutes each, one process of {threads} thread(s), seed {seed}; scores on test, in 0-1."
    lines = [common.format(**json.loads((folder / "settings.json").read_text())), ""]
    rows = [HEADER, ("---",) * len(HEADER)]
    for file in sorted(folder.glob("*/*/result.json")):
        found: dict[str, Any] = json.loads(file.read_text())
        scores = (f"{found['scores'][name]:.3f}" for name in ("AP", "AP50"))
        counts = f"{found['epochs']:.1f}", f"{found['seconds']:.0f}", f"{found['cpu_seconds']:.0f}"
        names = found["data"], found["contestant"], found["weights"], str(found["image_size"])
        rows.append((*names, *counts, *scores))
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder: dict[str, Any] = {"type": lambda name: Path(name).resolve()}
    parser.add_argument("--data", nargs="+", required=True, help="folders with a test split", **folder)
    parser.add_argument("--minutes", type=float, default=20, help="of wall-clock for each; default: %(default)s")
    parser.add_argument("--peers", nargs="+", choices=MODULES, default=[*MODULES], help="default: all")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--imgsz", type=int, default=USUAL, help="of YOLO11n; default: its own, %(default)s")
    parser.add_argument("--out", required=True, help="the folder of all runs, and of table.md", **folder)
    parser.add_argument("--environment", help="where ultralytics is or goes; default: OUT/environment", **folder)
    arguments = parser.parse_args()
    check_settings(arguments)
    splits = {data: read_splits(data) for data in arguments.data}
    for data in arguments.data:
        for peer in arguments.peers:
            contest(data, splits[data], peer, arguments)
    text = table(arguments.out)
    (arguments.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
