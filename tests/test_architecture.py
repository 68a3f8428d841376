"""The page "Architecture" and its figure show the rooms that there are, and their imports."""

import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers import load_script

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
PAGE = (ROOT / "docs" / "architecture.md").read_text()


@pytest.fixture(scope="module")
def house() -> ModuleType:
    """The script that draws the figure."""
    return load_script(FIGURES / "house.py")


def test_figure_when_read_then_has_the_rooms_and_arrows_of_the_source(house: ModuleType) -> None:
    drawn = (FIGURES / "house.svg").read_text()
    rooms, arrows, version = house.read_house()
    expected = sorted(f"{room}-imports-{other}" for room, other in house.direct(arrows))
    assert sorted(re.findall(r'id="(\S+-imports-\S+)"', drawn)) == expected, "run docs/figures/house.py"
    assert {*re.findall(r">([\w.]+)</text>", drawn)} == {*rooms}, "run docs/figures/house.py"
    assert version == ["checkpoints", "cli.py", "comparison", "prediction", "reporting"]


def test_rooms_when_they_import_then_no_circle_closes(house: ModuleType) -> None:
    rooms, arrows, _ = house.read_house()
    level = house.floors(rooms, arrows)
    assert all(level[room] > level[other] for room, other in arrows)


def test_rooms_when_they_import_then_in_the_order_of_the_page(house: ModuleType) -> None:
    rooms, arrows, _ = house.read_house()
    groups = re.search(r"^losses, models <- .*?(?=```)", PAGE, re.MULTILINE | re.DOTALL)
    assert groups
    place = {name: index for index, names in enumerate(groups[0].split("<-")) for name in re.findall(r"[\w.]+", names)}
    assert {*rooms} - {*place} == {"boxes.py", "common", "structures.py"}
    place |= dict.fromkeys(("boxes.py", "common", "structures.py"), -1)
    assert [(room, other) for room, other in arrows if place[room] < place[other]] == []


def test_packages_when_there_are_any_then_the_page_has_a_row_for_each() -> None:
    table = PAGE[PAGE.index("## Rooms") : PAGE.index("## Where a change goes")]
    named = {*re.findall(r"`([\w/.]+)`", "\n".join(row.split("|")[1] for row in table.splitlines() if "|" in row))}
    source = ROOT / "oddetr"
    packages = {f"{file.parent.relative_to(source)}/" for file in source.rglob("__init__.py")} - {"./"}
    files = {file.name for file in source.glob("*.py")}
    assert (packages | files) - named == set()


def test_files_when_the_page_names_them_then_they_exist() -> None:
    named = {*re.findall(r"`((?:[\w/.-]+/)?[\w-]+\.(?:py|yml|jinja|yaml|toml)|[\w/]+/)`", PAGE)}
    assert len(named) > 50
    files = [f"/{file.relative_to(ROOT)}" for file in ROOT.glob("[!.]*/**/*") if file.suffix != ".pyc"]
    files += [f"/{file.name}" for file in ROOT.iterdir()]
    text = "\n".join(f"{file}/\n" if Path(f"{ROOT}{file}").is_dir() else f"{file}\n" for file in files)
    assert [name for name in sorted(named) if f"/{name}\n" not in text] == []
