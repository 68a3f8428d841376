"""Validation of teacher and student side by side."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import oddetr
from oddetr.data.digits import DigitScenes
from oddetr.evaluation.coco import evaluate_detections
from oddetr.evaluation.detections import Detections
from oddetr.evaluation.postprocessing import postprocess
from oddetr.evaluation.validation import Validation
from oddetr.losses.matching import MatchingWeights
from oddetr.models.detector import Detector
from oddetr.structures import Batch
from oddetr.training.records.log import read_events
from tests.models.helpers import small_batch, small_detector

SCENES = DigitScenes("val")
TRUTH = SCENES.annotations()


def batches() -> Iterator[Batch]:
    """Four of the 500 validation images, with one object each."""
    for start in (0, 2):
        ids = tuple(TRUTH.image_ids[start : start + 2].tolist())
        yield replace(small_batch((1, 1), seed=start, num_classes=10), image_ids=ids)


def validate(validation: Validation) -> None:
    validation.start()
    with torch.inference_mode():
        for batch in batches():
            validation.add(batch)
    validation.finish(processes=1)


def moved(detector: Detector) -> None:
    """Gives the detector other queries and boxes."""
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter += 0.3 * torch.randn_like(parameter)


@torch.inference_mode()
def test_scores_are_of_each_detector_and_of_the_images_seen() -> None:
    detectors = {"teacher": small_detector(num_classes=10), "student": small_detector(num_classes=10, seed=1)}
    both = Validation(SCENES, detectors, MatchingWeights())
    alone = Validation(SCENES, {"student": detectors["student"]}, MatchingWeights())
    for validation in (both, alone):
        validate(validation)
    assert both.scores["student"].to_json() == alone.scores["student"].to_json()
    for name, detector in detectors.items():
        found: dict[int, Detections] = {}
        for batch in batches():
            predictions = detector(batch.images, batch.padding_mask)
            detections = postprocess(predictions, batch.original_sizes, detector.top_k)
            found.update(zip(batch.image_ids, detections, strict=True))
        expected = evaluate_detections(TRUTH.take(np.arange(4)), SCENES.classes, found)
        assert both.scores[name].metrics.to_json() == expected.to_json()


def test_instability_compares_with_the_validation_before_also_after_a_resume() -> None:
    """Each image has one object: a query that is left and one that is taken change."""
    detectors = {"teacher": small_detector(num_classes=10), "student": small_detector(num_classes=10, seed=1)}
    validation = Validation(SCENES, detectors, MatchingWeights())
    validate(validation)
    assert validation.scores["student"].instability.raw is None
    before, resumed = validation.state(), Validation(SCENES, detectors, MatchingWeights())
    resumed.load(before)
    moved(detectors["student"])
    for each in (validation, resumed):
        validate(each)
        now = each.state()
        old, new = (state["student"]["queries"] for state in (before, now))
        share = tuple((old != new).double().mean(dim=1).tolist())
        assert max(share) > 0
        found = each.scores["student"].instability
        assert (found.normalised, found.raw) == (share, tuple(2 * value for value in share))
        assert found.unstable_score == ((new[1] != new[0]).double().mean().item(),)
        assert each.scores["teacher"].instability.normalised == (0.0, 0.0)
        assert each.scores["teacher"].by_slot is None


def test_instability_by_slot_of_queries_chosen_from_tokens() -> None:
    detector = small_detector("dino", num_classes=10).eval()
    validation = Validation(SCENES, {"student": detector}, MatchingWeights())
    validate(validation)
    before = validation.state()["student_slots"]["queries"]
    moved(detector)
    validate(validation)
    state = validation.state()
    now = state["student_slots"]["queries"]
    assert now.max() < 6
    assert not now.equal(state["student"]["queries"])
    share = (before != now).double().mean(dim=1).tolist()
    assert validation.scores["student"].to_json()["normalised_instability_by_slot"] == share


def test_run_saves_both_detectors_and_evaluate_repeats_its_last_validation(learned: Path) -> None:
    events = [event for event in read_events(learned) if event["kind"] == "epoch"]
    validated = {event["epoch"]: event["teacher"]["AP"] for event in events if "teacher" in event}
    assert list(validated) == [2, 4, 6, 7]
    for weights in ("teacher", "student"):
        found = oddetr.evaluate(learned / "last", split="val", batch_size=8, weights=weights).to_json()
        assert 0 <= found.pop("AP_without_duplicates") <= 1
        assert found["AP"] > 0
        assert found == {name: events[-1][weights][name] for name in found}
    assert events[-1]["teacher"] != events[-1]["student"]
    teacher, student = (load_file(learned / "last" / f"{name}.safetensors") for name in ("model", "student"))
    state = torch.load(learned / "last" / "resume.ckpt", weights_only=True)
    assert all(value.equal(state["state_dict"][f"task.teacher.detector.{name}"]) for name, value in teacher.items())
    assert all(value.equal(state["state_dict"][f"task.student.{name}"]) for name, value in student.items())
    assert state["matching"]["teacher"]["counts"].tolist() == [1] * 8
    best = json.loads((learned / "best" / "checkpoint.json").read_text())
    assert best["epoch"] == max(validated, key=lambda epoch: validated[epoch])
    assert best["metrics"]["teacher"]["AP"] == max(validated.values())
