"""Draw `house.svg`, the rooms of oddetr/ and what each imports, and print the sizes on the page "Architecture".

python docs/figures/house.py
"""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCE = ROOT / "oddetr"
ROOM, UPWARD, INK = "#0072b2", "#d55e00", "#808690"
WIDTH, HEIGHT = 1.24, 0.36
"""Of a room, in inches."""
FLOOR = 0.86
"""From one row of rooms to the next, in inches."""
PAGE = 8.4
"""The figure's width in inches."""
LEGEND = 0.5
"""The height of the line below the rooms, in inches."""
COLUMNS = {
    "__init__.py": 5.4,
    "boxes.py": 1.4,
    "checkpoints": 2.8,
    "cli.py": 2.4,
    "common": 4.2,
    "comparison": 3.6,
    "data": 1.4,
    "distillation": 5.6,
    "evaluation": 2.8,
    "integrations": 7.2,
    "losses": 7.0,
    "models": 4.2,
    "prediction": 2.2,
    "reporting": 6.2,
    "structures.py": 7.0,
    "training": 5.0,
    "verbs.py": 6.2,
    "web": 1.2,
}
"""Where the middle of a room is, in inches from the left."""
COSTS = {
    "two-stage": ("ProposedQueries", "TwoStageQueries", "token_anchors"),
    "DAB-Deformable-DETR": ("LearnedAnchors", "AnchorPosition", "sine_anchor_embedding"),
    "DINO, but for its part of the decoder": ("MixedQueries", "ContrastiveDenoising"),
    "RT-DETR, RT-DETR v2, D-FINE, DEIMv2": ("HuggingFaceRealTimeDetr",),
    "transformers' Deformable-DETR": ("HuggingFaceDeformableDetr",),
}
"""What a detector needs beyond Deformable-DETR with box refinement."""

SHARED = ("config.py", "base.py", "files.py", "adapters.py")
"""The files of models/transformers/ that its two adapters share."""

Arrow = tuple[str, str]
"""The room that imports, and the room that it imports from."""


def room_of(file: Path) -> str:
    """The package or the file at the top of oddetr/ that a file is in."""
    return file.relative_to(SOURCE).parts[0]


def imported(file: Path) -> Iterator[tuple[str, str]]:
    """(room, name) of each import from oddetr in a file, wherever in the file it is."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "oddetr":
            inner = (node.module or "").split(".")[1:]
            for alias in node.names:
                part = (inner or [alias.name])[0]
                module = f"{part}.py"
                if (SOURCE / part).is_dir():
                    yield part, alias.name
                else:
                    yield module if (SOURCE / module).is_file() else "__init__.py", alias.name


def read_house() -> tuple[list[str], Counter[Arrow], list[str]]:
    """The rooms, how many names each imports from another, and the rooms that read `oddetr.__version__`."""
    files = sorted(SOURCE.rglob("*.py"))
    rooms = sorted({room_of(file) for file in files})
    arrows: Counter[Arrow] = Counter()
    version: set[str] = set()
    for file in files:
        for room, name in imported(file):
            if (room, name) == ("__init__.py", "__version__"):
                version.add(room_of(file))
            elif room != room_of(file):
                arrows[room_of(file), room] += 1
    return rooms, arrows, sorted(version)


def floors(rooms: list[str], arrows: Counter[Arrow]) -> dict[str, int]:
    """The floor of each room: one above the highest room that it imports.

    Raises:
        ValueError: rooms import one another in a circle.
    """
    found: dict[str, int] = {}
    while len(found) < len(rooms):
        free = [
            room
            for room in rooms
            if room not in found and all(other in found for each, other in arrows if each == room)
        ]
        if not free:
            raise ValueError(f"These rooms import one another in a circle: {', '.join(set(rooms) - {*found})}.")
        found |= {room: max((found[other] + 1 for each, other in arrows if each == room), default=0) for room in free}
    return found


def direct(arrows: Counter[Arrow]) -> list[Arrow]:
    """The arrows that do not follow from others: no third room leads from one end to the other."""
    below: dict[str, set[str]] = {}

    def reached(room: str) -> set[str]:
        if room not in below:
            below[room] = set()
            nexts = {other for each, other in arrows if each == room}
            below[room] = nexts.union(*map(reached, nexts))
        return below[room]

    return [(room, end) for room, end in arrows if not any(end in reached(by) for each, by in arrows if each == room)]


def places(rooms: list[str], arrows: Counter[Arrow]) -> dict[str, tuple[float, float]]:
    """The centre of each room; a room that `COLUMNS` does not name is put above what it imports."""
    level = floors(rooms, arrows)
    found: dict[str, tuple[float, float]] = {}
    for room in sorted(rooms, key=lambda room: level[room]):
        below = [found[other][0] for each, other in arrows if each == room]
        x = COLUMNS[room] if room in COLUMNS else fmean(below or [PAGE / 2])
        found[room] = (x, LEGEND + HEIGHT / 2 + level[room] * FLOOR)
    return found


def draw(panel: Axes, rooms: list[str], arrows: Counter[Arrow], version: list[str]) -> None:
    """Rooms as boxes, and the direct arrows, each with an id in the SVG."""
    centres = places(rooms, arrows)
    for room, other in direct(arrows):
        (x, y), (to_x, to_y) = centres[room], centres[other]
        ends = (x, y - HEIGHT / 2), (to_x, to_y + HEIGHT / 2)
        arrow = FancyArrowPatch(
            *ends, arrowstyle="-|>", mutation_scale=11, shrinkA=0, shrinkB=0, color=INK, linewidth=1.4
        )
        arrow.set_gid(f"{room}-imports-{other}")
        panel.add_patch(arrow)
    for room, (x, y) in centres.items():
        corner = (x - WIDTH / 2, y - HEIGHT / 2)
        shape = "round,pad=0,rounding_size=0.08"
        panel.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, shape, color=ROOM, linewidth=0, zorder=3))
        panel.text(x, y, room, color="white", ha="center", va="center_baseline", zorder=4)
    marks = [(centres[room][0] + WIDTH / 2 + 0.13, centres[room][1]) for room in version]
    for x, y in [*marks, (COLUMNS["boxes.py"] - WIDTH / 2 + 0.1, LEGEND / 3)]:
        panel.plot(x, y, marker="^", color=UPWARD, markersize=8)
    text = "reads oddetr.__version__ from __init__.py, the only import that does not lead downwards"
    panel.text(COLUMNS["boxes.py"] - WIDTH / 2 + 0.3, LEGEND / 3, text, va="center_baseline")


def figure() -> Figure:
    rooms, arrows, version = read_house()
    height = LEGEND + HEIGHT + 0.1 + FLOOR * max(floors(rooms, arrows).values())
    drawn = Figure(figsize=(PAGE, height))
    panel = drawn.add_axes((0, 0, 1, 1))
    panel.set(xlim=(0, PAGE), ylim=(0, height))
    panel.axis("off")
    draw(panel, rooms, arrows, version)
    return drawn


def lines(folder: Path) -> int:
    """Lines of all Python files in a folder, docstrings and blank lines included."""
    return sum(len(file.read_text().splitlines()) for file in folder.rglob("*.py"))


def without_docstring(node: ast.AST) -> set[int]:
    """The lines of a class, a function or a module, but for its own docstring."""
    last = max(getattr(each, "end_lineno", 0) for each in ast.walk(node))
    docstring = node.body[0] if ast.get_docstring(node) is not None else None
    apart = range(docstring.lineno, docstring.end_lineno + 1) if docstring else ()
    return {*range(getattr(node, "lineno", 1), last + 1)} - {*apart}


def code(file: Path) -> int:
    """Lines of a file that are neither blank nor comments nor docstrings, those below attributes included."""
    text = file.read_text()
    apart = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    rows = enumerate(text.splitlines(), 1)
    return sum(bool(row.strip()) and not row.strip().startswith("#") and line not in apart for line, row in rows)


def print_sizes() -> None:
    """Print what the section "Size" and the one on a detector's cost say of today's source."""
    files = [*SOURCE.rglob("*.py")]
    rooms, arrows, version = read_house()
    nodes = [(file, node) for file in files for node in ast.walk(ast.parse(file.read_text()))]
    functions = [
        (len(without_docstring(node)), node.name, file) for file, node in nodes if isinstance(node, ast.FunctionDef)
    ]
    longest, name, where = max(functions)
    size = {
        node.name: len(node.decorator_list) + node.end_lineno - node.lineno + 1
        for _, node in nodes
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
    }
    print(
        f"lines of source {lines(SOURCE):,}, of which code {sum(map(code, files)):,}; data {lines(SOURCE / 'data'):,}"
    )
    print(f"lines of tests {lines(ROOT / 'tests'):,}")
    print(f"rooms {len(rooms)}, of which files {len([*SOURCE.glob('*.py')])}")
    print(f"arrows {len(arrows)}, of which drawn {len(direct(arrows))}; no circle, or this had failed")
    print(f"floors {max(floors(rooms, arrows).values()) + 1}, __version__ is read in: {', '.join(version)}")
    print(f"longest file {max(len(file.read_text().splitlines()) for file in files)}")
    print(f"longest function {longest}: {name} in {where.relative_to(ROOT)}")
    for detector, parts in COSTS.items():
        print(f"{detector}: {sum(size[part] for part in parts)}", {part: size[part] for part in parts})
    shared = {name: len((SOURCE / "models/transformers" / name).read_text().splitlines()) for name in SHARED}
    print(f"shared by transformers' adapters: {sum(shared.values())}", shared)


if __name__ == "__main__":
    mpl.rcParams.update({"font.size": 11, "svg.fonttype": "none", "svg.hashsalt": "oddetr", "text.color": INK})
    figure().savefig(HERE / "house.svg", transparent=True, metadata={"Date": None})
    print_sizes()
