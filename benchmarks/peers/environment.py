"""Of contestants' processes: threads, no network, and an environment of its own for ultralytics, which is AGPL: no
dependency of oddetr's, and imported by nothing of it."""

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

ULTRALYTICS = "ultralytics==8.4.190"


def ultralytics_python(folder: Path) -> Path:
    """The interpreter of the environment, which is made if it is not there: it sees the packages of the one that runs
    this, torch among them, and pip installs what is missing (with a network, before anything is timed).

    Raises:
        CalledProcessError: pip failed; ValueError: it has installed another torch.
    """
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    python = folder / "bin" / "python"
    if not (own / "ultralytics").is_dir():
        venv.create(folder, with_pip=True)
        (own / "packages_of_oddetr.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        subprocess.run([python, "-m", "pip", "install", "--quiet", ULTRALYTICS], check=True)
    if (own / "torch").exists():
        raise ValueError(f"pip has installed another torch into {folder}, so contestants would differ. Remove it.")
    return python


def variables(threads: int, folder: Path) -> dict[str, str]:
    """The environment variables of a contestant: its threads, the CPU alone, no network, no cache of the Hub."""
    inherited = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return {
        **inherited,
        **{f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS", "NUMBA")},
        "GOMP_SPINCOUNT": "30000",  # as oddetr's command line has it; for all
        "CUDA_VISIBLE_DEVICES": "",
        **dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9"),  # nobody answers: a download fails
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "no_hub"),
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_CONFIG_DIR": str(folder / "ultralytics"),
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
