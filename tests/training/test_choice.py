from dataclasses import replace

import numpy as np
import pytest

from oddetr.data.dataset import Annotations
from oddetr.models.families.presets import PRESETS
from oddetr.training.config import DEFAULT_MODEL, OptimizerConfig, TrainConfig, chosen
from oddetr.training.plan.choice import GPU_MODEL, LEGIBLE, Facts, Machine, choose, settled, steps_of

PHOTOS = Facts(images=300, side=480, smallest=0.1, most=14)
CPU, GPU = Machine(), Machine(gpu_gib=80.0)


def annotations(sides: list[float], crowd: list[bool] | None = None) -> Annotations:
    """Two images of 100 x 200 pixels: square objects on the first, none on the second."""
    count = len(sides)
    boxes = np.array([[0, 0, side, side] for side in sides], np.float32).reshape(-1, 4)
    return Annotations(
        image_ids=np.array([1, 2]),
        sizes=np.array([[100, 200], [200, 100]]),
        offsets=np.array([0, count, count]),
        boxes=boxes,
        labels=np.zeros(count, np.int64),
        areas=boxes[:, 2] * boxes[:, 3],
        crowd=np.array(crowd or [False] * count, bool),
        annotation_ids=np.arange(count),
    )


def test_facts_when_made_of_annotations_then_crowd_regions_do_not_count() -> None:
    facts = Facts.of(annotations([10.0, 20.0, 20.0, 90.0], [False, False, False, True]))

    assert facts == Facts(images=2, side=100, smallest=facts.smallest, most=3)
    assert facts.smallest == pytest.approx(0.12)


@pytest.mark.parametrize(("machine", "model"), [(CPU, DEFAULT_MODEL), (GPU, GPU_MODEL)])
def test_everything_open_is_chosen_and_told(machine: Machine, model: str) -> None:
    choice = choose(TrainConfig(data="photos"), PHOTOS, machine)

    config, told = choice.config, "\n".join(choice.reasons)
    assert config.model == model
    assert chosen(config.image_size) * PHOTOS.smallest >= LEGIBLE
    assert config.detector["num_queries"] >= PHOTOS.most
    _, steps = steps_of(config, PHOTOS.images, 1)
    assert 2000 < steps < 7000
    assert chosen(config.validate_every) < chosen(config.epochs)
    for words in (
        f"model {model}:",
        f"{config.detector['num_queries']} queries",
        f"image size {config.image_size}:",
        f"batch size {config.batch_size}, {config.epochs} epochs",
    ):
        assert words in told
    assert f"{config.optimizer.learning_rate:g}" in told
    assert len(choice.reasons) <= 5
    assert choose(config, PHOTOS, machine).reasons == ()


def test_choose_when_values_are_given_then_they_stay() -> None:
    given = TrainConfig(
        data="photos",
        model="dino_tiny",
        epochs=3,
        image_size=200,
        batch_size=2,
        validate_every=2,
        optimizer=OptimizerConfig(learning_rate=1e-3, backbone_factor=0.5),
    )

    assert choose(given, PHOTOS, CPU) == type(choose(given, PHOTOS, CPU))(given, ())


def test_choose_when_objects_are_small_then_images_are_larger() -> None:
    def size(smallest: float, side: int = 1000) -> int:
        facts = Facts(images=300, side=side, smallest=smallest, most=5)
        return chosen(choose(TrainConfig(data="photos"), facts, CPU).config.image_size)

    assert size(0.1) < size(0.05) < size(0.001)
    assert size(0.001, side=200) == 200


def test_choose_when_data_grows_then_epochs_fall_to_the_least() -> None:
    def epochs(images: int) -> int:
        facts = Facts(images=images, side=480, smallest=0.1, most=5)
        return chosen(choose(TrainConfig(data="photos"), facts, CPU).config.epochs)

    assert epochs(20) == 100 > epochs(300) > epochs(1500) > epochs(100_000) == 12


def test_choose_when_run_is_long_then_rates_are_the_papers() -> None:
    photos = TrainConfig(data="photos")
    short = choose(photos, PHOTOS, CPU).config.optimizer
    many = choose(photos, Facts(images=100_000, side=480, smallest=0.1, most=5), CPU).config.optimizer
    assert (many.learning_rate, many.backbone_factor) == (2e-4, 0.1)
    assert choose(photos, replace(PHOTOS, images=100_000), CPU).reasons[-1] == "learning rate 0.0002: Deformable-DETR's"
    assert chosen(short.learning_rate) > 2e-4


@pytest.mark.parametrize(("gib", "expected"), [(4.0, 2), (16.0, 4), (24.0, 8), (80.0, 16)])
def test_choose_when_gpu_is_larger_then_batches_are(gib: float, expected: int) -> None:
    facts = Facts(images=5000, side=480, smallest=0.1, most=14)
    config = choose(TrainConfig(data="photos", image_size=640), facts, Machine(gpu_gib=gib)).config

    assert config.batch_size == expected


def test_steps_are_counted_on_each_device() -> None:
    config = TrainConfig(data="photos", batch_size=4, epochs=10)

    assert steps_of(config, 300, 1) == (75, 750)
    assert steps_of(config, 300, 2) == (38, 380)


def test_settled_when_nothing_is_given_then_it_depends_on_no_machine() -> None:
    config = settled(TrainConfig(data="photos"))

    assert (config.model, config.epochs, config.batch_size, config.image_size) == (DEFAULT_MODEL, 50, 8, 320)
    assert settled(TrainConfig()).image_size == 128
    assert settled(config) == config


def test_choose_when_the_model_is_chosen_then_it_is_a_preset() -> None:
    assert {DEFAULT_MODEL, GPU_MODEL} <= {*PRESETS}


def test_validations_are_equally_spaced_if_possible() -> None:
    def every(epochs: int) -> int:
        return chosen(choose(TrainConfig(data="photos", epochs=epochs), PHOTOS, CPU).config.validate_every)

    for epochs in (12, 40, 48, 50, 60, 90, 100):
        assert epochs % every(epochs) == 0
        assert 8 <= epochs / every(epochs) <= 32
    assert every(97) == 6


def test_steps_count_lightnings_limits() -> None:
    def steps(**flags: float) -> tuple[int, int]:
        return steps_of(TrainConfig(data="photos", batch_size=4, epochs=10, trainer=flags), 300, 1)

    assert steps(limit_train_batches=2) == (2, 20)
    assert steps(limit_train_batches=0.1) == (7, 70)
    assert steps(limit_train_batches=1000) == (75, 750)


@pytest.mark.parametrize("pretrained", [True, False])
def test_the_reason_names_imagenet_only_with_its_weights(pretrained: bool) -> None:
    config = TrainConfig(data="photos", detector={"pretrained": pretrained})

    choice = choose(config, PHOTOS, CPU)
    assert ("ImageNet" in "".join(choice.reasons)) == pretrained
    assert choice.config.optimizer.learning_rate == 4e-4
