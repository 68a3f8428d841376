"""Configuration of the distillation. Every choice that the paper leaves open is a field; docs/trials.md has the
ablations behind the defaults."""

from dataclasses import dataclass, field
from typing import Literal, get_args


def _check_choice(name: str, value: object, choices: object) -> None:
    known = get_args(choices)
    if value not in known:
        raise ValueError(f"distillation.{name} is {value!r}; it must be one of {', '.join(map(str, known))}.")


@dataclass(frozen=True)
class TermConfig:
    """The weight schedule of one distillation term.

    Attributes:
        weight: weight at the start of the run; 0 disables the term and saves its computation.
        fade_until: fraction of the run, in (0, 1], at which the linearly decaying weight reaches 0; from there on the
            term costs nothing. None, the default: constant weight. The paper mentions no schedule; fading saves time
            but was slightly worse in short runs (docs/trials.md).
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
        """The weight at `progress`, the completed fraction of the run in [0, 1]."""
        return self.weight if self.fade_until is None else self.weight * max(0.0, 1.0 - progress / self.fade_until)


@dataclass(frozen=True)
class MatchingConfig(TermConfig):
    """Matching distillation: queries learn from the teacher's assignment in addition to their own.

    Attributes:
        weight: w_m, in [0, 1].
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weight <= 1:
            raise ValueError(f"distillation.matching.weight is {self.weight}; it is a share, in [0, 1].")


@dataclass(frozen=True)
class PredictionConfig(TermConfig):
    """Prediction distillation: the student imitates the teacher's predictions for the same queries.

    Attributes:
        weight: w_p. At 1 the student is tied to its past: a stable matching, but slower learning and lower AP; 0.3
            keeps most of the stability at no cost in AP (docs/trials.md).
    """

    weight: float = 0.3


@dataclass(frozen=True)
class AuxiliaryConfig(TermConfig):
    """The auxiliary group: the student decodes the teacher's cheapest queries of each object towards that object.

    Attributes:
        weight: w_a.
        candidates: positive queries per object; the paper's 2.
        rivals: next cheapest queries per object, decoded beside each candidate and trained as background, so that the
            decoder learns which of several near-by queries owns the object. 0: no rivals, and all candidates attend to
            one another, the literal reading of the paper, with which two-stage detectors had more duplicates.
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
    """The teacher and the three distillation terms.

    Attributes:
        enabled: False trains the baseline, bit for bit; the teacher is then just an EMA of the weights.
        horizon: maximum number of optimizer steps that the teacher averages over, 1 / (1 - decay). None, the default:
            4 % of the run, which for 12 epochs of COCO at 16 images a step (88,000 steps) is about DINO's 3,333 (decay
            0.9997).
        memory: the encoder memory that the teacher decodes from during training. `student`, the default: the student's
            of the same step, dropout included, which saves the teacher's backbone and encoder and thus most of the cost
            of distillation (ours). `teacher`: its own, in evaluation mode, the literal reading of the paper; slightly
            better per step, worse per unit of time (docs/trials.md). At evaluation the teacher always uses its own
            backbone and encoder.
        queries: the initial queries that the teacher decodes during training. `shared`, the default: those that it has
            in common with the student, so that query i is the same for both and the student's own queries learn from
            it (ours): of learned queries the teacher's embeddings, slot by slot; of queries that the encoder proposes
            the student's choice. `teacher`: the teacher's own choice, the literal reading of the paper: its assignment
            is carried over to the student's queries of the same slot or encoder token, and the student decodes the
            teacher's queries as a further group for prediction distillation, which costs more (docs/method.md).
        matching: matching distillation.
        prediction: prediction distillation.
        auxiliary: the auxiliary group.

    Raises:
        ValueError: a value is out of range.
    """

    enabled: bool = True
    horizon: float | None = None
    memory: Literal["teacher", "student"] = "student"
    queries: Literal["teacher", "shared"] = "shared"
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    prediction: PredictionConfig = field(default_factory=PredictionConfig)
    auxiliary: AuxiliaryConfig = field(default_factory=AuxiliaryConfig)

    def __post_init__(self) -> None:
        if self.horizon is not None and not self.horizon >= 1:
            raise ValueError(f"distillation.horizon is {self.horizon}; it must be at least 1 step, or null.")
        _check_choice("memory", self.memory, Literal["teacher", "student"])
        _check_choice("queries", self.queries, Literal["teacher", "shared"])

    def weights(self, progress: float) -> tuple[float, float, float]:
        """(w_m, w_p, w_a) at `progress`, the completed fraction of the run in [0, 1]."""

        terms = (self.matching, self.prediction, self.auxiliary)
        matching, prediction, auxiliary = (term.at(progress) if self.enabled else 0.0 for term in terms)
        return matching, prediction, auxiliary
