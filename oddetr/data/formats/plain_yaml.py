"""YAML of unknown content, as text: nothing is guessed, merged or made into objects."""

from collections import Counter
from typing import Any

import yaml

from oddetr.common.untrusted import refuse_aliases

_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("str", "seq", "map", "int", "float", "bool", "null"))


class _Loader(yaml.BaseLoader):
    """Scalars stay the text that they are (YAML takes the class `no` for false), and nothing is merged, which can grow
    without bounds."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Refuses what is meant to become something else than text, a list or a table."""
        if node.tag not in _TAGS:
            raise ValueError(f"it has the tag {node.tag[:80]}, which means nothing here")
        return super().construct_object(node, deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuses a key that stands twice, of which the second would hide the first."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            twice, _ = Counter(keys).most_common(1)[0]
            raise ValueError(f"the key {twice[:80]!r} stands twice, and the second would hide the first")
        return super().construct_mapping(node, deep)


def read_table(content: bytes) -> dict[Any, Any]:
    """The content of a YAML file, all scalars as text.

    Raises:
        ValueError, RecursionError, yaml.YAMLError: it is none, or no table.
    """
    refuse_aliases(content, _Loader)
    found = yaml.load(content, _Loader)
    if not isinstance(found, dict):
        raise ValueError("it holds no keys such as names, train and val")
    return found
