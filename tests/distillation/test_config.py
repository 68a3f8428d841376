"""What a configuration takes and refuses; each bound from both sides."""

import math
import re

import pytest

from oddetr.distillation.config import (
    AuxiliaryConfig,
    DistillationConfig,
    MatchingConfig,
    PredictionConfig,
    TermConfig,
)
from oddetr.training.config import TrainConfig

LESSONS = [MatchingConfig, PredictionConfig, AuxiliaryConfig]
FRACTION = "it is a fraction of the run, in (0, 1], or null."


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (TermConfig, {"weight": 0.0, "fade_until": 1.0}),
        (MatchingConfig, {"weight": 1.0}),
        (AuxiliaryConfig, {"candidates": 1, "rivals": 0}),
        (DistillationConfig, {"horizon": 1.0, "memory": "teacher"}),
        (DistillationConfig, {"horizon": None, "memory": "student"}),
    ],
)
def test_values_just_in_range_are_accepted(kind: type, fields: dict) -> None:
    made = kind(**fields)
    assert {name: getattr(made, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("kind", "field", "value", "message"),
    [
        *((kind, "weight", -0.1, "it must be at least 0.") for kind in LESSONS),
        *((kind, "fade_until", 0.0, FRACTION) for kind in LESSONS),
        (AuxiliaryConfig, "fade_until", 1.1, FRACTION),
        (AuxiliaryConfig, "weight", math.nan, "it must be at least 0."),
        (MatchingConfig, "weight", 1.1, "it is a share, in [0, 1]."),
        (AuxiliaryConfig, "candidates", 0, "it must be at least 1."),
        (AuxiliaryConfig, "rivals", -1, "it must be at least 0."),
    ],
)
def test_value_just_out_of_range_is_named(kind: type, field: str, value: float, message: str) -> None:
    term = kind.__name__.removesuffix("Config").lower()
    expected = re.escape(f"distillation.{term}.{field} is {value}; {message}")
    with pytest.raises(ValueError, match=f"^{expected}$"):
        kind(**{field: value})


def test_unknown_memory_is_named() -> None:
    made = DistillationConfig()
    object.__setattr__(made, "memory", "Student")  # as without the type checks of these tests
    with pytest.raises(ValueError, match=r"^distillation\.memory is 'Student'; it must be one of teacher, student\.$"):
        made.__post_init__()


def test_horizon_below_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^distillation\.horizon is 0\.9; it must be at least 1 step, or null\.$"):
        DistillationConfig(horizon=0.9)


def test_weights_fade_and_are_zero_when_disabled() -> None:
    """In the order of the formula: w_m, w_p, w_a."""
    terms = {
        "matching": MatchingConfig(weight=0.5),
        "prediction": PredictionConfig(weight=0.25, fade_until=0.5),
        "auxiliary": AuxiliaryConfig(weight=2.0, fade_until=1.0),
    }
    assert DistillationConfig(**terms).weights(0.0) == (0.5, 0.25, 2.0)
    assert DistillationConfig(**terms).weights(0.25) == (0.5, 0.125, 1.5)
    assert DistillationConfig(**terms).weights(0.75) == (0.5, 0.0, 0.5)
    assert DistillationConfig(**terms).weights(1.0) == (0.5, 0.0, 0.0)
    assert DistillationConfig(enabled=False, **terms).weights(0.0) == (0.0, 0.0, 0.0)


def test_partial_options_keep_the_other_defaults() -> None:
    """Whichever door they come in by: Python, a file, the command line."""
    config = DistillationConfig(prediction=PredictionConfig(fade_until=0.5))
    assert config.prediction.weight == DistillationConfig().prediction.weight != TermConfig().weight
    assert TrainConfig.from_plain({"distillation": {"prediction": {"fade_until": 0.5}}}).distillation == config
