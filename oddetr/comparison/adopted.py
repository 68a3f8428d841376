"""Adoption of another comparison's finished runs from its results.json, whose own folders may be gone."""

from pathlib import Path
from typing import Any

from oddetr.common.untrusted import read_json
from oddetr.comparison.config import ComparisonConfig
from oddetr.comparison.records import JOB, RunResult, write_json
from oddetr.training.config import TrainConfig
from oddetr.training.safety.resume import differences
from oddetr.training.upgrades import upgraded

_A_RUNS_OWN = ("out", "seed", "resume")


def shareable_terms(config: ComparisonConfig, arm: str) -> dict[str, Any]:
    """The configuration that all runs of an arm share; the data's folder is reduced to its name."""
    terms = config.train_config(arm, config.seeds[0]).to_json()
    return {name: value for name, value in terms.items() if name not in _A_RUNS_OWN} | {
        "data": Path(terms["data"]).name
    }


def adopt(file: Path, config: ComparisonConfig) -> int:
    """Write the jobs and results in `file` to `config.out`, as if the runs had finished there; return their number.

    Runs that `config.out` already has, and arms that the comparison lacks, are skipped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no results.json, or is too old to hold configurations; or a run has another
            configuration (the fields are named), in which case nothing is adopted.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}. Give the results.json of a comparison.")
    try:
        content = read_json(file)
        found = [
            (RunResult(arm, int(seed), content["split"], run["epochs"], run["scores"], run["machine"]), entry["terms"])
            for arm, entry in content["arms"].items()
            if arm in config.arms
            for seed, run in entry["seeds"].items()
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file} is no results.json that tells the terms of its runs ({error!r}).") from error
    jobs: list[tuple[RunResult, dict[str, Any], Path]] = []
    for result, terms in found:
        ours = config.train_config(result.arm, result.seed).to_json()
        folder = config.out / result.arm / f"seed_{result.seed}"
        if (folder / JOB).exists():
            continue
        if terms["data"] == Path(ours["data"]).name:
            terms = terms | {"data": ours["data"]}
        before = TrainConfig().to_json() | upgraded(terms) | {name: ours[name] for name in _A_RUNS_OWN}
        different = differences(before, ours)
        if different:
            raise ValueError(
                f"The runs of {result.arm} in {file} had another configuration: {'; '.join(different)}. Nothing was "
                "adopted: undo the change, or omit --adopted."
            )
        jobs.append((result, {"arm": result.arm, "seed": result.seed, "config": before}, folder))
    for result, job, folder in jobs:
        result.write(folder)
        write_json(folder / JOB, job)
    return len(jobs)
