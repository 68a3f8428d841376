import math

from oddetr.training.records.logged import best_values, logged_values, parameters, plain_names


def test_step_values_are_logged_under_train() -> None:
    event = {"kind": "train", "step": 20, "epoch": 0, "loss": 2.0, "loss_l1": 1, "learning_rate": 1e-4}
    assert logged_values(event) == {"train/loss": 2.0, "train/loss_l1": 1.0, "train/learning_rate": 1e-4}


def test_epoch_values_name_layers_and_classes() -> None:
    teacher = {
        "AP": 0.5,
        "APl": None,
        "per_class": {"cat": 0.25, "dog/wolf": 0.75, "none": None},
        "instability": [3.0, 1.0],
        "normalised_instability": None,
        "unstable_score": [0.125],
    }
    event = {"kind": "epoch", "step": 40, "epoch": 2, "seconds": 9.0, "peak_memory_gib": math.nan, "teacher": teacher}
    assert logged_values(event) == {
        "epoch": 2.0,
        "epoch/seconds": 9.0,
        "val/teacher/AP": 0.5,
        "val/teacher/AP_per_class/cat": 0.25,
        "val/teacher/AP_per_class/dog_wolf": 0.75,
        "val/teacher/instability": 1.0,
        "val/teacher/instability_per_layer/1": 3.0,
        "val/teacher/instability_per_layer/2": 1.0,
        "val/teacher/unstable_score": 0.125,
        "val/teacher/unstable_score_per_layer/2": 0.125,
    }


def test_class_names_become_plain_and_stay_different() -> None:
    names = ["cat", "a/b: c", "a.b? c", "a_b_ c_2", "..", "", "猫", "犬", " x ", "long" * 100]
    plain = plain_names(names)
    assert [*plain] == names
    assert len({*plain.values()}) == len(names)
    assert plain["cat"] == "cat"
    assert plain["a/b: c"] == "a_b_ c"
    assert plain["a.b? c"] == "a_b_ c_2"
    assert plain["a_b_ c_2"] == "a_b_ c_2_3"
    assert (plain["猫"], plain["犬"]) == ("__6", "__7")
    assert plain[" x "] == "x"
    assert all(len(name) <= 210 for name in plain.values())


def test_parameters_have_dotted_names_and_include_the_classes() -> None:
    found = parameters({"epochs": 3, "optimizer": {"clip": 0.1}, "detector": {"id2label": {"a:b": 1}}}, ["x", "y"])
    assert found == {"epochs": 3, "optimizer.clip": 0.1, "detector.id2label.a_b": 1, "classes": "x, y"}


def test_best_without_ap_logs_only_the_epoch() -> None:
    assert best_values({"epoch": 4, "metrics": {"teacher": {"AP": None}, "student": {"AP": 0.5}}}) == {
        "best/epoch": 4.0,
        "best/student/AP": 0.5,
    }
