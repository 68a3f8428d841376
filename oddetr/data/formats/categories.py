"""The categories of COCO files, and the one class table of them all."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from oddetr.common.text import listed, readable
from oddetr.data.dataset import ClassTable
from oddetr.data.faults import DataError
from oddetr.data.formats.files import Files
from oddetr.data.formats.json_values import Id, id_of, numbered, text_of


class Category(NamedTuple):
    """A category; it may be Roboflow's name for the project if it has id 0 and the supercategory "none"."""

    id: Id
    name: str
    may_be_project: bool


def categories_of(files: Files, file: str, records: list[Any]) -> list[Category]:
    """The well-formed categories of a file, sorted."""
    found: list[Category] = []
    for index, record in enumerate(records):
        id, name = id_of(record, "id"), text_of(record, "name").strip()
        if id is not None and name and readable(name):
            found.append(Category(id, name, id == 0 and text_of(record, "supercategory") == "none"))
        else:
            files.add("malformed-record", file, f"categories[{index}] needs an id and a readable name")
    return sorted(found, key=lambda category: (isinstance(category.id, str), category))


def without_project(
    files: Files, tables: Mapping[str, list[Category]], used: Iterable[Id | None]
) -> dict[str, list[Category]]:
    """The categories of each file without Roboflow's category 0, the project's name.

    It is a class if an object is of it, or if there is no other category.
    """
    names = [category.name for table in tables.values() for category in table if category.may_be_project]
    if not names or 0 in set(used) or not any(len(table) > 1 for table in tables.values()):
        return dict(tables)
    files.notes.append(f"Category 0, {names[0]!r}, is Roboflow's name for the project, not a class: left out.")
    return {file: [category for category in table if not category.may_be_project] for file, table in tables.items()}


def class_table(files: Files, tables: Mapping[str, list[Category]]) -> ClassTable:
    """The class table: that of the first file, and what others add to it.

    Files may give a name other ids, but no id a name that the first file does not have.

    Raises:
        DataError: the first file's categories are no class table.
    """
    (first, categories), *others = tables.items()
    table = {category.id: category.name for category in categories}
    if len(table) < len(categories):
        files.add("classes", first, "a category id is used twice")
    for file, other in others:
        names = {category.name for category in other}
        for id, name, _ in other:
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
        moved = [name for id, name, _ in other if table.get(id) != name]
        if moved and not any(fault.kind == "classes" for fault in files.faults):
            files.notes.append(f"Categories of {file} are taken by name, since their ids differ: {listed(moved)}.")
    numbers = numbered(sorted(table, key=lambda id: (isinstance(id, str), id)))
    try:
        return ClassTable(tuple(table[id] for id in numbers), tuple(numbers.values()))
    except ValueError as problem:
        files.add("classes", first, str(problem))
        raise DataError(files.root, files.faults) from problem
