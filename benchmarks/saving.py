"""What it costs that a checkpoint survives a crash: a save of `last` against the same files through Lightning's own
writer, with no checksum and no wait for the disk.

python benchmarks/saving.py --folder /tmp --model deformable_detr_refine_tiny
"""

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import timing
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from safetensors.torch import save_model

from oddetr.checkpoints.checkpoint import RESUME, WEIGHT_FILES, CheckpointInfo, damage, save_of_run
from oddetr.data.dataset import ClassTable
from oddetr.models.detector import Detector
from oddetr.models.families.build import PRESETS, build_detector
from oddetr.structures import Weights
from oddetr.training.trainer import StateFile

Detectors = dict[Weights, Detector]


def ours(run: Path, detectors: Detectors, state: dict[str, Any], info: CheckpointInfo) -> None:
    StateFile().save_checkpoint(state, run / RESUME)
    save_of_run(run / "last", detectors, info, run / RESUME)


def plain(run: Path, detectors: Detectors, state: dict[str, Any], info: CheckpointInfo) -> None:
    aside, folder = run / "plain.new", run / "plain"
    aside.mkdir()
    for whose, detector in detectors.items():
        save_model(detector.saved, str(aside / WEIGHT_FILES[whose]))
    TorchCheckpointIO().save_checkpoint(state, aside / RESUME)
    (aside / "checkpoint.json").write_text(str(info.to_json()))
    if folder.exists():
        shutil.rmtree(folder)
    aside.rename(folder)


def main() -> None:
    parser = timing.parser(__doc__, rounds=15)
    parser.add_argument("--folder", type=Path, help="on the disk in question; default: the system's for such files")
    parser.add_argument("--model", default="deformable_detr_refine_tiny", choices=PRESETS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    made_of = PRESETS[arguments.model].override({"pretrained": False})
    detectors: Detectors = {"teacher": build_detector(made_of, 10), "student": build_detector(made_of, 10)}
    learned = [parameter for parameter in detectors["student"].parameters() if parameter.requires_grad]
    state = {
        "global_step": 1,
        "state_dict": {f"{whose}.{k}": v for whose, each in detectors.items() for k, v in each.state_dict().items()},
        "optimizer_states": [[torch.zeros_like(each) for each in learned] for _ in ("exp_avg", "exp_avg_sq")],
    }
    info = CheckpointInfo(made_of, ClassTable(tuple("0123456789"), tuple(range(10))), 320, (0.5,) * 3, (0.2,) * 3)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        run = Path(folder)
        forms = {name: partial(form, run, detectors, state, info) for name, form in (("ours", ours), ("plain", plain))}
        times = timing.in_turns(forms, arguments.rounds)
        size = sum(file.stat().st_size for file in (run / "last").iterdir()) / 1e6
        reading = timing.in_turns({"damage": partial(damage, run / "last")}, arguments.rounds)["damage"]
    what = f"a save of last, {arguments.model}, {size:.0f} MB"
    rows = [timing.Row(what, times["ours"], "not synced", times["plain"])]
    timing.show(rows, arguments.json)
    print(f"verifying it: {reading:.0f} ms")


if __name__ == "__main__":
    main()
