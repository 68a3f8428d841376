"""What the benchmarks share: turns, medians, peak memory in a process of its own, one table.

On a machine that others use too, only ratios of one run mean something: whatever is compared takes turns.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        what: was measured.
        ours: milliseconds.
        peer: who is compared.
        theirs: milliseconds of the peer.
        floor: milliseconds of what cannot be left out, as far as the script can tell; None where it cannot.
        ours_gib, theirs_gib: peak memory; None where it was not measured.
    """

    what: str
    ours: float
    peer: str
    theirs: float
    floor: float | None = None
    ours_gib: float | None = None
    theirs_gib: float | None = None


def milliseconds(work: Callable[[], object], device: str = "cpu") -> float:
    """Of one call; on a GPU until it is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def in_turns(
    work: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2, device: str = "cpu"
) -> dict[str, float]:
    """The median milliseconds of each, over `rounds` turns; those of `warm_up` before them do not count."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(warm_up + rounds):
        for name, each in work.items():
            taken = milliseconds(each, device)
            if turn >= warm_up:
                times[name].append(taken)
    return {name: median(values) for name, values in times.items()}


def peak_gib(device: str = "cpu") -> float:
    """At the most so far: of the device on CUDA, of this process on the CPU, on Linux only."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status").read_text()  # `getrusage` would also tell of the process that started this one
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def of_another_process(*arguments: str) -> Any:
    """The JSON that this script prints as its last line if it is called again with further arguments."""
    command = [sys.executable, *sys.argv, *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def parser(
    description: str | None, threads: int = 1, rounds: int | None = 7, as_json: bool = True
) -> argparse.ArgumentParser:
    """With the options that all have; without `--rounds` or `--json` where there are none."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--threads", type=int, default=threads, help="default: %(default)s")
    if rounds:
        made.add_argument("--rounds", type=int, default=rounds, help="turns that count; default: %(default)s")
    if as_json:
        made.add_argument("--json", action="store_true", help="print rows for `all.py`, not a table")
    return made


def show(rows: Sequence[Row], as_json: bool = False) -> None:
    """Prints a Markdown table; or a JSON object for each row."""
    if as_json:
        for row in rows:
            print(json.dumps(asdict(row)))
        return
    print("| what | ours | peer | theirs | theirs / ours | ours / floor | GiB, ours and theirs |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        floor = "" if row.floor is None else f"{row.ours / row.floor:.2f}"
        memory = "" if row.ours_gib is None or row.theirs_gib is None else f"{row.ours_gib:.2f}, {row.theirs_gib:.2f}"
        print(
            f"| {row.what} | {_time(row.ours)} | {row.peer} | {_time(row.theirs)} | **{row.theirs / row.ours:.2f}** "
            f"| {floor} | {memory} |"
        )


def _time(ms: float) -> str:
    return f"{ms / 1e3:.2f} s" if ms >= 1e4 else f"{ms:.0f} ms" if ms >= 10 else f"{ms:.2f} ms"
