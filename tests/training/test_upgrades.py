"""What oddetr 0.1 recorded, read by this one."""

from typing import Any

import pytest

from oddetr.common.nested import merged
from oddetr.distillation.config import AuxiliaryConfig, DistillationConfig
from oddetr.training.config import TrainConfig
from oddetr.training.upgrades import upgraded
from tests.helpers import as_of_0_1

PLAIN = DistillationConfig(queries="teacher", auxiliary=AuxiliaryConfig(rivals=0))


def test_upgrade_of_a_0_1_record_drops_what_is_gone_and_has_no_rivals() -> None:
    """A configuration of transformers, whose names may have dots and be numbers, stays as it is."""
    detector = {"content": {"id2label": {0: "a", 1: "b"}, "model.type": "x"}}
    now = TrainConfig(epochs=3, distillation=PLAIN).to_json() | {"detector": detector}
    old = as_of_0_1(now)
    before = merged(old, {})
    assert upgraded(old) == now
    assert old == before
    assert TrainConfig.from_plain(as_of_0_1(TrainConfig().to_json())).distillation == PLAIN


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [("matching", "layers", "last"), ("prediction", "min_confidence", 0.1), ("auxiliary", "apart", True)],
)
def test_upgrade_refuses_a_field_that_is_gone_with_another_value(part: str, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^distillation\.{part}.{field} is {value}, which only oddetr 0\.1 can"):
        upgraded({"distillation": {part: {field: value}}})


@pytest.mark.parametrize(
    "record",
    [
        TrainConfig().to_json(),
        {"distillation": {"auxiliary": {"candidates": 3}}},
        {"distillation": DistillationConfig(), "epochs": 3},
    ],
    ids=["whole", "part", "made"],
)
def test_upgrade_leaves_todays_configurations_alone(record: dict[str, Any]) -> None:
    assert upgraded(record) == record


def test_upgrade_keeps_new_fields_beside_old_ones() -> None:
    new = {"queries": "shared", "auxiliary": {"rivals": 2}}
    old = merged(new, {"auxiliary": {"distinct": False}})
    assert upgraded({"distillation": old}) == {"distillation": new}


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ({"tensorboard": True}, ["tensorboard"]),
        ({"tensorboard": False}, []),
        ({"tensorboard": True, "loggers": ["mlflow"]}, ["mlflow"]),
    ],
    ids=str,
)
def test_upgrade_turns_the_tensorboard_switch_into_a_logger(old: dict[str, Any], now: list[str]) -> None:
    assert upgraded(old) == {"loggers": now}
