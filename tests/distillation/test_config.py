"""What a configuration takes and refuses; each bound from both sides."""

import re

import pytest

from oddetr.distillation.config import (
    AuxiliaryConfig,
    DistillationConfig,
    Lesson,
    MatchingConfig,
    PredictionConfig,
)

LESSONS = [MatchingConfig, PredictionConfig, AuxiliaryConfig]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Lesson, {"weight": 0.0, "fade_until": 1.0}),
        (MatchingConfig, {"weight": 1.0, "box_power": 0.0}),
        (PredictionConfig, {"confidence_power": 0.0, "min_confidence": 0.0}),
        (AuxiliaryConfig, {"candidates": 1, "distinct": True, "pool": "layers"}),
        (AuxiliaryConfig, {"distinct": False, "pool": "per_layer"}),
        (DistillationConfig, {"horizon": 1.0}),
        (DistillationConfig, {"horizon": None}),
    ],
)
def test_config_when_values_are_just_in_range_then_takes_them(kind: type, fields: dict) -> None:
    made = kind(**fields)
    assert {name: getattr(made, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("kind", "field", "value", "message"),
    [
        *((kind, "weight", -0.1, "it must be at least 0.") for kind in LESSONS),
        *((kind, "fade_until", 0.0, "it is a fraction of the run, in (0, 1], or null.") for kind in LESSONS),
        (MatchingConfig, "weight", 1.1, "it is a share, in [0, 1]."),
        (MatchingConfig, "box_power", -0.1, "it must be at least 0."),
        (PredictionConfig, "confidence_power", -0.1, "it must be at least 0."),
        (PredictionConfig, "min_confidence", -0.1, "it lies in [0, 1)."),
        (PredictionConfig, "min_confidence", 1.0, "it lies in [0, 1)."),
        (AuxiliaryConfig, "candidates", 0, "it must be at least 1."),
    ],
)
def test_lesson_when_a_value_is_just_out_of_range_then_says_which(
    kind: type, field: str, value: float, message: str
) -> None:
    lesson = kind.__name__.removesuffix("Config").lower()
    expected = re.escape(f"distillation.{lesson}.{field} is {value}; {message}")
    with pytest.raises(ValueError, match=f"^{expected}$"):
        kind(**{field: value})


@pytest.mark.parametrize(
    ("kind", "name", "known"),
    [
        (MatchingConfig, "matching.layers", ("same", "last")),
        (MatchingConfig, "matching.boxes", ("both", "own")),
        (MatchingConfig, "matching.carry_by", ("token", "slot")),
        (PredictionConfig, "prediction.divide_by", ("objects", "confidence")),
        (AuxiliaryConfig, "auxiliary.pool", ("layers", "per_layer")),
        (AuxiliaryConfig, "auxiliary.anchors", ("initial", "box")),
        (DistillationConfig, "memory", ("teacher", "student")),
    ],
)
def test_config_when_a_choice_is_made_then_takes_the_known_ones_only(
    kind: type, name: str, known: tuple[str, ...]
) -> None:
    field = name.rpartition(".")[2]
    for choice in known:
        assert getattr(kind(**{field: choice}), field) == choice
    made = kind()
    object.__setattr__(made, field, "Same")  # as without the type checks of these tests
    expected = re.escape(f"distillation.{name} is 'Same'; it must be one of {', '.join(known)}.")
    with pytest.raises(ValueError, match=f"^{expected}$"):
        made.__post_init__()


def test_horizon_when_below_one_step_then_says_so() -> None:
    expected = re.escape("distillation.horizon is 0.9; it must be at least 1 step, or null.")
    with pytest.raises(ValueError, match=f"^{expected}$"):
        DistillationConfig(horizon=0.9)


def test_candidates_when_distinct_and_of_every_layer_then_refuses() -> None:
    expected = re.escape("distillation.auxiliary: candidates of every layer (pool per_layer) cannot be distinct.")
    with pytest.raises(ValueError, match=f"^{expected}$"):
        AuxiliaryConfig(distinct=True, pool="per_layer")


def test_weights_when_switched_off_or_fading_then_are_zero_or_less() -> None:
    """In the order of the formula: w_m, w_p, w_a."""
    lessons = {
        "matching": MatchingConfig(weight=0.5),
        "prediction": PredictionConfig(weight=0.25, fade_until=0.5),
        "auxiliary": AuxiliaryConfig(weight=2.0, fade_until=1.0),
    }
    assert DistillationConfig(**lessons).weights(0.0) == (0.5, 0.25, 2.0)
    assert DistillationConfig(**lessons).weights(0.25) == (0.5, 0.125, 1.5)
    assert DistillationConfig(**lessons).weights(1.0) == (0.5, 0.0, 0.0)
    assert DistillationConfig(enabled=False, **lessons).weights(0.0) == (0.0, 0.0, 0.0)
