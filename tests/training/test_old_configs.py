"""What oddetr 0.1 recorded, read by this one."""

from typing import Any

import pytest

from oddetr.common.nested import merged
from oddetr.distillation.config import AuxiliaryConfig, DistillationConfig
from oddetr.training.config import TrainConfig
from oddetr.training.old_configs import upgraded
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
    new = {"queries": "shared", "auxiliary": {"rivals": 2}}
    assert upgraded({"distillation": merged(new, {"auxiliary": {"distinct": False}})}) == {"distillation": new}


def test_upgrade_refuses_a_field_that_is_gone_with_another_value() -> None:
    with pytest.raises(ValueError, match=r"^distillation\.auxiliary.apart is True, which only oddetr 0\.1 can"):
        upgraded({"distillation": {"auxiliary": {"apart": True}}})


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (TrainConfig().to_json(), TrainConfig().to_json()),
        ({"distillation": DistillationConfig(), "epochs": 3}, {"distillation": DistillationConfig(), "epochs": 3}),
        ({"tensorboard": True}, {"loggers": ["tensorboard"]}),
        ({"tensorboard": False}, {"loggers": []}),
        ({"tensorboard": True, "loggers": ["mlflow"]}, {"loggers": ["mlflow"]}),
    ],
    ids=["whole", "made", "tensorboard", "no tensorboard", "mlflow"],
)
def test_upgrade_leaves_todays_configurations_alone_and_reads_the_tensorboard_switch(
    record: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert upgraded(record) == expected
