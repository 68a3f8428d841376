import pytest
import torch

import oddetr
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


def test_a_run_of_one_step_has_the_full_rate() -> None:
    assert OptimizerConfig().factor(0, 1) == 1.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": 0.0}, "above 0"),
        ({"clip": -1.0}, "clip"),
        ({"drop_at": 1.5}, "fraction of the run"),
    ],
)
def test_an_optimizer_field_out_of_range_is_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**fields)


@pytest.mark.parametrize(("size", "told"), [(16, "at least 32"), (4097, "at most 4,096")])
def test_an_image_size_out_of_range_is_refused_with_its_limit(size: int, told: str) -> None:
    with pytest.raises(ValueError, match=f"image_size is {size}; it must be .*{told}"):
        TrainConfig(data="photos", image_size=size)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epoch": 3}, r"no option epoch\. Did you mean epochs\?"),
        ({"optimizer": {"lr": 1}}, r"no option optimizer\.lr\. optimizer has learning_rate, backbone_factor"),
        ({"loss": {"clases": 1}}, r"no option loss\.clases\. Did you mean loss\.classes"),
        ({"distillation": {"matching": {"wieght": 1}}}, r"distillation\.matching\.wieght\. Did you mean .*\.weight"),
        ({"optimizer": {"learning_rate": {"x": 1}}}, r"no option optimizer\.learning_rate\.x"),
    ],
)
def test_an_unknown_field_is_refused_with_similar_ones(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oddetr.train(**fields)


@pytest.mark.parametrize(
    ("flags", "several"),
    [
        ({}, False),
        ({"devices": 2}, True),
        ({"devices": "0,1"}, True),
        ({"devices": [0]}, False),
        ({"num_nodes": 2}, True),
    ],
)
def test_flags_that_ask_for_several_processes(flags: dict, several: bool) -> None:
    assert several_processes(flags) is several


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"devices": "abc"}, r"--trainer.devices is 'abc'; give a whole number of at least 1, a list"),
        ({"devices": 0}, r"--trainer.devices is 0;"),
        ({"num_nodes": "two"}, r"--trainer.num_nodes is 'two'; give a whole number of at least 1\."),
    ],
)
def test_a_flag_that_is_no_number_of_processes_is_named(flags: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        several_processes(flags)


def test_devices_auto_depends_on_the_machine() -> None:
    assert several_processes({"devices": "auto"}) is (torch.cuda.device_count() > 1)


def test_processes_of_torchrun_need_no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() == {"devices": 1}
    for name, value in (("TORCHELASTIC_RUN_ID", "none"), ("LOCAL_WORLD_SIZE", "4"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    assert launched() == {"devices": 4, "num_nodes": 2}
    assert several_processes({})
