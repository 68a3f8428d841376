"""Finished runs that nobody trained."""

from pathlib import Path

from oddetr.comparison.records import Job, RunResult
from oddetr.training.config import TrainConfig
from oddetr.training.plan.choice import with_fixed_defaults


def made_job(folder: Path, arm: str = "qfl", seed: int = 0, split: str = "test", **fields: object) -> Job:
    out = folder / arm / f"seed_{seed}"
    return Job(
        arm,
        seed,
        split,
        1,
        1,
        with_fixed_defaults(TrainConfig.from_plain({"out": out, "seed": seed, "resume": True, **fields})),
    )


def made_result(
    arm: str = "qfl",
    seed: int = 0,
    teacher: tuple[float | None, ...] = (0.1, 0.3),
    student: tuple[float | None, ...] = (0.1, 0.2),
    instability: tuple[float | None, ...] = (None, 0.25),
    split: str = "test",
    carried: float | None = None,
    without_duplicates: float | None = None,
) -> RunResult:
    """A run whose teacher and student have these APs after each epoch; an epoch takes a minute of training. oddetr 0.1
    did not score the teacher without duplicates (None)."""

    def scores(ap: float | None, changed: float | None) -> dict:
        layers, unstable = (None, []) if changed is None else ([0.9, changed], [0.8, changed / 2])
        ap50 = None if ap is None else ap * 2
        named = {"AP": ap, "AP50": ap50, "per_class": {}}
        return named | {"normalised_instability": layers, "unstable_score": unstable}

    epochs = [
        {
            "kind": "epoch",
            "epoch": epoch,
            "step": epoch * 10,
            "seconds": epoch * 90.0,
            "training_seconds": epoch * 60.0,
            "teacher": scores(own, changed),
            "student": scores(other, changed),
        }
        | ({} if carried is None else {"matching_carried": carried})
        for epoch, (own, other, changed) in enumerate(zip(teacher, student, instability, strict=True), start=1)
    ]
    last, more = epochs[-1], {} if without_duplicates is None else {"AP_without_duplicates": without_duplicates}
    scored = {"teacher": last["teacher"] | more, "student": last["student"]}
    return RunResult(arm, seed, split, epochs, scored, "a machine")


def finish(job: Job, result: RunResult) -> None:
    """Leaves what a finished run leaves."""
    job.write()
    (job.folder / "last").mkdir(exist_ok=True)
    result.write(job.folder)
