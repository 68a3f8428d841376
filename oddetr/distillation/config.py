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
        weight: w_m, in [0, 1]: L_own = (1 - w_m) L_det(own; s) + w_m L_det(own; s and t).
        layers: `same`: the teacher's layer l assigns for the student's layer l, whose predictions it resembles most;
            `last`: its last layer, its best, assigns for all.
        box_power: a query with two objects regresses to each in proportion to IoU^box_power, so that the nearer one
            draws more; 0: in equal shares.
        boxes: `both`: boxes learn under both assignments, as classes do; `own`: under the student's only.
        carry_by: what makes a query of the teacher and one of the student the same where queries are chosen from the
            encoder: `token`, that they come from the same; or `slot`, the place among them, to which in DINO the
            content belongs. Where queries are learned both are the same.
    """

    layers: Literal["same", "last"] = "same"
    box_power: float = 1.0
    boxes: Literal["both", "own"] = "both"
    carry_by: Literal["token", "slot"] = "token"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weight <= 1:
            raise ValueError(f"distillation.matching.weight is {self.weight}; it is a share, in [0, 1].")
        if not self.box_power >= 0:
            raise ValueError(f"distillation.matching.box_power is {self.box_power}; it must be at least 0.")
        _check_choice("matching.layers", self.layers, Literal["same", "last"])
        _check_choice("matching.boxes", self.boxes, Literal["both", "own"])
        _check_choice("matching.carry_by", self.carry_by, Literal["token", "slot"])


@dataclass(frozen=True)
class PredictionConfig(Lesson):
    """Prediction distillation: the student decodes the teacher's initial queries to the teacher's predictions.

    Attributes:
        weight: w_p. At 1 the student is held to its past: calm, but late and low (docs/method.md); 0.3 keeps most of
            the calm at no cost.
        confidence_power: a query's box counts by its teacher's confidence (best class score) to this power: what the
            teacher takes for background says nothing about boxes.
        divide_by: what the sum over boxes is divided by. `objects`, the default: a young teacher, confident of nothing,
            hardly holds boxes where they are; `confidence`: the sum of the confidences, so that it always holds them
            alike, which kept the student from learning for hundreds of steps (docs/method.md).
        min_confidence: queries whose teacher is less confident than this teach nothing, classes included; in [0, 1). By
            default all teach: that a query is background is knowledge too.
    """

    weight: float = 0.3
    confidence_power: float = 1.0
    min_confidence: float = 0.0
    divide_by: Literal["objects", "confidence"] = "objects"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.confidence_power >= 0:
            raise ValueError(
                f"distillation.prediction.confidence_power is {self.confidence_power}; it must be at least 0."
            )
        if not 0 <= self.min_confidence < 1:
            raise ValueError(f"distillation.prediction.min_confidence is {self.min_confidence}; it lies in [0, 1).")
        _check_choice("prediction.divide_by", self.divide_by, Literal["objects", "confidence"])


@dataclass(frozen=True)
class AuxiliaryConfig(Lesson):
    """The auxiliary group: for each object the teacher's cheapest queries, which the student decodes to that object.

    Attributes:
        weight: w_a.
        candidates: queries for each object; the paper's 2.
        apart: the first candidates of all objects make a group, the second another, and so on: blind to one another,
            so that an object has one query in each, as in the student's own group. Off: all make one group, the plain
            reading of the paper, where two queries of an object see each other and both are right.
        pool: `layers`: the cheapest of all decoder layers together, the plain reading of the paper's abstract;
            `per_layer`: the cheapest of every layer, so layers x candidates for each object.
        distinct: a query is chosen once at most for an object, at its cheapest layer. Off: the same query at two
            layers is two candidates.
        anchors: `initial`: of the kind that the detector's own queries start from, a point being the chosen box's
            centre, so that the group resembles them; `box`: the chosen box whatever the detector.
    """

    candidates: int = 2
    apart: bool = False
    pool: Literal["layers", "per_layer"] = "layers"
    distinct: bool = False
    anchors: Literal["initial", "box"] = "initial"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1:
            raise ValueError(f"distillation.auxiliary.candidates is {self.candidates}; it must be at least 1.")
        if self.distinct and self.pool == "per_layer":
            raise ValueError("distillation.auxiliary: candidates of every layer (pool per_layer) cannot be distinct.")
        _check_choice("auxiliary.pool", self.pool, Literal["layers", "per_layer"])
        _check_choice("auxiliary.anchors", self.anchors, Literal["initial", "box"])


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
