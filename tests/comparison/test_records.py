import dataclasses
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from oddetr.common.durable import WriteError
from oddetr.comparison.records import Job
from oddetr.distillation.config import AuxiliaryConfig, DistillationConfig, MatchingConfig
from tests.comparison.synthetic import finish, made_job, made_result
from tests.helpers import as_of_0_1


def changed(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_result_is_none_if_missing_or_of_another_split(tmp_path: Path) -> None:
    job = made_job(tmp_path, optimizer={"clip": 0.5})
    assert job.result() is None
    finish(job, made_result())
    assert Job.read(job.folder / "job.json") == job
    assert job.result() == made_result()
    assert dataclasses.replace(job, split="val").result() is None


def test_run_of_another_configuration_is_refused_once_it_has_a_checkpoint(tmp_path: Path) -> None:
    job = made_job(tmp_path, epochs=3)
    job.write()
    assert made_job(tmp_path, epochs=4).result() is None
    (job.folder / "last").mkdir()
    with pytest.raises(ValueError, match=r"qfl/seed_0.*epochs was 3, now it is 4; optimizer.clip was 0.1, now"):
        made_job(tmp_path, epochs=4, optimizer={"clip": 0.5}).result()
    made_result().write(job.folder)
    (job.folder / "last").rmdir()
    with pytest.raises(ValueError, match="epochs was 3, now it is 4"):
        made_job(tmp_path, epochs=4).result()


def test_result_with_other_workers_or_folder_is_accepted(tmp_path: Path) -> None:
    finish(made_job(tmp_path / "here", workers=2), made_result())
    (tmp_path / "here").rename(tmp_path / "there")
    job = made_job(tmp_path / "there", workers=0)
    assert job.result() == made_result()
    config = json.loads((job.folder / "job.json").read_text())["config"]
    del config["accumulate"]  # an older run's field had its default
    changed(job.folder / "job.json", config=config)
    assert job.result() == made_result()
    with pytest.raises(ValueError, match="accumulate was 1, now it is 2"):
        made_job(tmp_path / "there", accumulate=2).result()


def test_run_of_oddetr_0_1_is_of_an_arm_without_rivals(tmp_path: Path) -> None:
    job = made_job(tmp_path, distillation=DistillationConfig(queries="teacher", auxiliary=AuxiliaryConfig(rivals=0)))
    finish(job, made_result())
    file = job.folder / "job.json"
    old = as_of_0_1(json.loads(file.read_text())["config"])
    changed(file, config=old)
    assert job.result() == made_result()
    assert Job.read(file) == job
    with pytest.raises(ValueError, match=r"rivals was 0, now it is 3"):
        made_job(tmp_path).result()
    old["distillation"]["auxiliary"]["apart"] = True
    changed(file, config=old)
    with pytest.raises(ValueError, match=r"job\.json: distillation\.auxiliary\.apart is True, which only oddetr 0\.1"):
        job.result()


def test_run_from_before_padding_could_be_chosen_is_one_without(tmp_path: Path) -> None:
    job = made_job(tmp_path, pad_to=1)
    finish(job, made_result())
    config = json.loads((job.folder / "job.json").read_text())["config"]
    del config["pad_to"]
    changed(job.folder / "job.json", config=config)
    assert job.result() == made_result()
    with pytest.raises(ValueError, match="pad_to was 1, now it is 64"):
        made_job(tmp_path, pad_to=64).result()


def test_options_of_disabled_distillation_do_not_matter(tmp_path: Path) -> None:
    off = DistillationConfig(enabled=False)
    finish(made_job(tmp_path, distillation=off), made_result())
    other = dataclasses.replace(off, memory="teacher", matching=MatchingConfig(weight=0.5))
    assert made_job(tmp_path, distillation=other).result() == made_result()
    for changed, field in ((dataclasses.replace(off, horizon=9.0), "horizon"), (DistillationConfig(), "enabled")):
        with pytest.raises(ValueError, match=f"distillation.{field} was"):
            made_job(tmp_path, distillation=changed).result()


@pytest.mark.parametrize(("name", "content"), [("job.json", ""), ("job.json", '{"config": 3}'), ("result.json", "[]")])
def test_damaged_file_is_named_and_can_be_removed(tmp_path: Path, name: str, content: str) -> None:
    job = made_job(tmp_path)
    finish(job, made_result())
    (job.folder / name).write_text(content)
    with pytest.raises(
        ValueError, match=rf"qfl/seed_0/{name} is damaged \(.*\)\. Remove it, and give the same command"
    ):
        job.result()
    (job.folder / name).unlink()
    assert job.result() == (made_result() if name == "job.json" else None)


@pytest.mark.parametrize("write", [Job.write, lambda job: made_result().write(job.folder)])
def test_full_disk_leaves_the_old_files_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Job], None]
) -> None:
    job = made_job(tmp_path)
    finish(job, made_result())
    before = {file.name: file.read_bytes() for file in job.folder.glob("*.json")}
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(WriteError, match="seed_0 cannot be written: No space left on device"):
        write(dataclasses.replace(job, threads=7))
    assert {file.name: file.read_bytes() for file in job.folder.glob("*.json*")} == before


def test_curves_leave_out_epochs_without_validation() -> None:
    result = made_result(teacher=(0.1, None, 0.3), student=(0.1, 0.2, 0.4), instability=(None, 0.5, 0.2))
    result.epochs.append({"kind": "epoch", "epoch": 4, "step": 40, "training_seconds": 240.0})
    assert result.curve("teacher", "AP") == {1: 0.1, 3: 0.3}
    assert result.curve("student", "AP") == {1: 0.1, 2: 0.2, 3: 0.4}
    assert result.curve("student", "normalised_instability") == {2: 0.5, 3: 0.2}
    assert result.curve("student", "unstable_score") == {2: 0.25, 3: 0.1}
    assert result.times() == {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}
    assert result.minutes == 4
