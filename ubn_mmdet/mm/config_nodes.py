"""Finding the parts of a config, wherever they are."""

from collections.abc import Iterator

from mmengine.config import ConfigDict


def all_nodes(tree: object) -> Iterator[ConfigDict]:
    """All dicts of a config, outermost first."""
    if isinstance(tree, ConfigDict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        for child in tree:
            yield from all_nodes(child)


def nodes_of(tree: object, *types: str) -> list[ConfigDict]:
    """Those that build one of ``types``."""
    return [node for node in all_nodes(tree) if node.get('type') in types]
