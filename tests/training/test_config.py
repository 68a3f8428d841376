import jaxtyping
import pytest
import torch

from oddetr.training.config import OptimizerConfig, TrainConfig
from oddetr.training.processes import launched, several_processes


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (OptimizerConfig(warmup=0.0), {0: 1.0, 79: 1.0, 80: 0.1, 99: 0.1}),
        (OptimizerConfig(warmup=0.1, drop_at=0.5), {0: 0.1, 4: 0.5, 9: 1.0, 49: 1.0, 50: 0.1}),
        (OptimizerConfig(warmup=0.0, schedule="cosine"), {0: 1.0, 50: 0.5, 99: 0.000247}),
    ],
    ids=["step", "step with warm-up", "cosine"],
)
def test_the_rate_follows_the_schedule(config: OptimizerConfig, expected: dict[int, float]) -> None:
    assert {step: config.factor(step, 100) for step in expected} == pytest.approx(expected, abs=1e-6)
    assert OptimizerConfig().factor(0, 1) == 1.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be a whole number of at least 1"),
        ({"image_size": 4097}, "image_size is 4097; it must be at most 4,096"),
        ({"hours": 0.0}, "hours is 0.0; it must be above 0"),
        ({"hours": 2.0, "epochs": 3}, "hours is 2.0 and epochs is 3; leave one out"),
        ({"repeat_threshold": 2.0, "data": "cells"}, "repeat_threshold is 2.0; it is a share"),
        ({"repeat_threshold": 0.1}, "the built-in digits have none"),
        ({"freeze": "decoder"}, "freeze is 'decoder'; it must be one of nothing, backbone, encoder"),
        ({"precision": "fp8"}, "precision is 'fp8'; it must be one of fp32, bf16, fp16"),
        ({"loggers": ["comet"]}, "There is no logger 'comet'; there are tensorboard"),
        ({"optimizer": {"learning_rate": 0.0}}, "above 0"),
        ({"optimizer": {"clip": -1.0}}, "optimizer.clip is -1.0"),
        ({"optimizer": {"schedule": "linear"}}, "optimizer.schedule is 'linear'; it must be one of step, cosine"),
        ({"optimizer": {"drop_at": 1.5}}, "fraction of the run"),
        ({"optimizer": 3}, "optimizer takes names with values, not '3'"),
        ({"epoch": 3}, r"no option epoch\. Did you mean epochs\?"),
        ({"distillation": {"matching": {"wieght": 1}}}, r"distillation\.matching\.wieght\. Did you mean .*\.weight"),
        ({"trainer": {"max_epochs": 2}}, "use --epochs"),
        ({"trainer": {"device": 2}}, r"no option trainer\.device\. Did you mean trainer\.devices"),
    ],
)
def test_a_wrong_field_is_named_with_what_it_takes(fields: dict, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the types that only tests check."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_plain(fields)


def test_a_configuration_is_the_same_after_json() -> None:
    given = {"out": "runs/a", "loggers": ["wandb"], "digits": {"train_images": 9}}
    plain = TrainConfig.from_plain(given | {"trainer": {"callbacks": [object()]}}).to_json()
    assert plain["out"] == "runs/a"
    assert plain["trainer"] == {}
    assert TrainConfig.from_plain(plain).to_json() == plain


@pytest.mark.parametrize(
    ("flags", "several"),
    [
        ({}, False),
        ({"devices": "0,1"}, True),
        ({"devices": [0]}, False),
        ({"num_nodes": 2}, True),
        ({"devices": "auto"}, torch.cuda.device_count() > 1),
    ],
)
def test_flags_that_ask_for_several_processes(flags: dict, several: bool) -> None:
    assert several_processes(flags) is several


def test_processes_of_torchrun_need_no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() == {"devices": 1}
    for name, value in (("TORCHELASTIC_RUN_ID", "none"), ("LOCAL_WORLD_SIZE", "4"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    assert launched() == {"devices": 4, "num_nodes": 2}
    assert several_processes({})
