"""The categories of COCO files, and the one class table of them all."""

from collections.abc import Iterable, Mapping
from typing import Any

from oddetr.common.text import listed, readable
from oddetr.data.dataset import ClassTable
from oddetr.data.faults import DataError
from oddetr.data.formats.files import Files
from oddetr.data.formats.json_values import Id, id_of, numbered, text_of

Category = tuple[Id, str]
"""(id, name)."""
_PROJECT = "\0"
"""Marks category 0 with supercategory "none", which may be Roboflow's name for the project."""


def categories_of(files: Files, file: str, records: list[Any]) -> list[Category]:
    """The well-formed categories of a file, sorted."""
    found: list[Category] = []
    for index, record in enumerate(records):
        id, name = id_of(record, "id"), text_of(record, "name").strip()
        if id is not None and name and readable(name):
            is_project = id == 0 and text_of(record, "supercategory") == "none"
            found.append((id, f"{_PROJECT}{name}" if is_project else name))
        else:
            files.add("malformed-record", file, f"categories[{index}] needs an id and a readable name")
    return sorted(found, key=lambda category: (isinstance(category[0], str), category))


def without_project(
    files: Files, tables: Mapping[str, list[Category]], used: Iterable[Id | None]
) -> dict[str, list[Category]]:
    """The categories of each file without Roboflow's category 0, the project's name.

    It is a class if an object is of it, or if there is no other category.
    """
    names = [name.removeprefix(_PROJECT) for table in tables.values() for _, name in table if name[0] == _PROJECT]
    left_out = bool(names) and 0 not in set(used) and any(len(table) > 1 for table in tables.values())
    if left_out:
        files.notes.append(f"Category 0, {names[0]!r}, is Roboflow's name for the project, not a class: left out.")
    return {
        file: [(id, name.removeprefix(_PROJECT)) for id, name in table if not (left_out and name[0] == _PROJECT)]
        for file, table in tables.items()
    }


def class_table(files: Files, tables: Mapping[str, list[Category]]) -> ClassTable:
    """The class table: that of the first file, and what others add to it.

    Files may give a name other ids, but no id a name that the first file does not have.

    Raises:
        DataError: the first file's categories are no class table.
    """
    (first, categories), *others = tables.items()
    table = dict(categories)
    if len(table) < len(categories):
        files.add("classes", first, "a category id is used twice")
    for file, other in others:
        names = {name for _, name in other}
        for id, name in other:
            if name in table.values():
                continue
            if id in table and table[id].casefold() == name.casefold():
                files.notes.append(f"Category {name!r} of {file} is taken for {table[id]!r}, which has the same id.")
            elif id in table and table[id] not in names:
                files.add("classes", file, f"id {id} is {name!r}, but {table[id]!r} in {first}")
            elif id in table:
                table[max((number for number in table if isinstance(number, int)), default=0) + 1] = name
            else:
                table[id] = name
        moved = [name for id, name in other if table.get(id) != name]
        if moved and not any(fault.kind == "classes" for fault in files.faults):
            files.notes.append(f"Categories of {file} are taken by name, since their ids differ: {listed(moved)}.")
    numbers = numbered(sorted(table, key=lambda id: (isinstance(id, str), id)))
    try:
        return ClassTable(tuple(table[id] for id in numbers), tuple(numbers.values()))
    except ValueError as problem:
        files.add("classes", first, str(problem))
        raise DataError(files.root, files.faults) from problem
