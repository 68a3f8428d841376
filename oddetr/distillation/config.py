"""What is distilled, and every choice that the paper leaves open: each is a field, and docs/method.md tells what the
ablation said of its default."""

from dataclasses import dataclass, field
from typing import Literal, get_args


def _check_choice(name: str, value: object, choices: object) -> None:
    known = get_args(choices)
    if value not in known:
        raise ValueError(f"distillation.{name} is {value!r}; it must be one of {', '.join(map(str, known))}.")


@dataclass(frozen=True)
class Lesson:
    """One of the teacher's lessons: its weight over the run.

    Attributes:
        weight: at the beginning of the run; 0 switches the lesson off, and its work is not done.
        fade_until: the fraction of the run, in (0, 1], at which the weight, falling linearly from the beginning,
            reaches 0, after which its work is no longer done. None, the default: constant. The paper tells of no
            schedule; groups that fade save time, and were a little behind in short runs (docs/method.md).
    """

    weight: float = 1.0
    fade_until: float | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__.removesuffix("Config").lower()
        if not self.weight >= 0:
            raise ValueError(f"distillation.{name}.weight is {self.weight}; it must be at least 0.")
        if self.fade_until is not None and not 0 < self.fade_until <= 1:
            raise ValueError(
                f"distillation.{name}.fade_until is {self.fade_until}; it is a fraction of the run, in (0, 1], or null."
            )

    def at(self, progress: float) -> float:
        """The weight when `progress`, in [0, 1], of the run is done."""
        return self.weight if self.fade_until is None else self.weight * max(0.0, 1.0 - progress / self.fade_until)


@dataclass(frozen=True)
class MatchingConfig(Lesson):
    """Matching distillation: queries learn from the teacher's assignment beside their own.

    Attributes:
        weight: w_m, in [0, 1].
        queries: which queries learn it. `own`, the default: the student's own (the paper), to which the teacher's
            assignment is carried over by slot or encoder token. `teacher`: the teacher's initial queries, which the
            student decodes, and whose identity is exact whatever the detector (ours): fewer duplicates on two-stage
            detectors, but less calm, and far behind on DINO at its best learning rate (docs/method.md).
    """

    queries: Literal["own", "teacher"] = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weight <= 1:
            raise ValueError(f"distillation.matching.weight is {self.weight}; it is a share, in [0, 1].")
        _check_choice("matching.queries", self.queries, Literal["own", "teacher"])


@dataclass(frozen=True)
class PredictionConfig(Lesson):
    """Prediction distillation: the student decodes the teacher's initial queries to the teacher's predictions.

    Attributes:
        weight: w_p. At 1 the student is held to its past: calm, but late and low (docs/method.md); 0.3 keeps most of
            the calm at no cost.
    """

    weight: float = 0.3


@dataclass(frozen=True)
class AuxiliaryConfig(Lesson):
    """The auxiliary group: for each object the teacher's cheapest queries, which the student decodes to that object.

    Attributes:
        weight: w_a.
        candidates: queries that are to find each object; the paper's 2.
        rivals: for each object, how many of the next cheapest queries are decoded beside its candidate and are to find
            nothing, so that the decoder learns which of several near queries has the object. 0: none, and all
            candidates see each other, the plain reading of the paper, after which the decoder bears duplicates.
    """

    candidates: int = 2
    rivals: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("candidates", 1), ("rivals", 0)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"distillation.auxiliary.{name} is {getattr(self, name)}; it must be at least {least}."
                )


@dataclass(frozen=True)
class DistillationConfig:
    """The teacher and its lessons.

    Attributes:
        enabled: off is the baseline, to the bit; the teacher is kept all the same: its weights are the plain EMA.
        horizon: the most optimizer steps that the teacher averages over, 1 / (1 - decay); default (None): 4 % of the
            run, which on COCO's 12 epochs at 16 images a step (88,000 steps) is about DINO's 3,333 (decay 0.9997).
        memory: what the teacher's queries read while it teaches. `student`, the default: what the student has encoded
            in this step, its dropout included, which saves the teacher's backbone and encoder, most of distillation's
            cost (ours). `teacher`: what the teacher encodes itself, in evaluation mode, the plain reading of the paper;
            a little better step for step, and worse for the time (docs/method.md).
        matching, prediction, auxiliary: the three lessons.

    Raises:
        ValueError: a value that is out of range.
    """

    enabled: bool = True
    horizon: float | None = None
    memory: Literal["teacher", "student"] = "student"
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    prediction: PredictionConfig = field(default_factory=PredictionConfig)
    auxiliary: AuxiliaryConfig = field(default_factory=AuxiliaryConfig)

    def __post_init__(self) -> None:
        if self.horizon is not None and not self.horizon >= 1:
            raise ValueError(f"distillation.horizon is {self.horizon}; it must be at least 1 step, or null.")
        _check_choice("memory", self.memory, Literal["teacher", "student"])

    def weights(self, progress: float) -> tuple[float, float, float]:
        """(w_m, w_p, w_a) when `progress`, in [0, 1], of the run is done."""
        lessons = (self.matching, self.prediction, self.auxiliary)
        matching, prediction, auxiliary = (lesson.at(progress) if self.enabled else 0.0 for lesson in lessons)
        return matching, prediction, auxiliary
