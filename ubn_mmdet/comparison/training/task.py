"""What a comparison trains, by its data: detectors, or classifiers to pre-train them."""

from pathlib import Path
from types import ModuleType
from typing import TypeAlias

from ...data.coco_folder import CocoFolder
from ...data.image_folder import ImageFolder
from . import classification, detection

Folder: TypeAlias = CocoFolder | ImageFolder


def task_of(folder: Folder) -> ModuleType:
    """The module with what is particular; both have the same functions."""
    return classification if isinstance(folder, ImageFolder) else detection


def read_folder(value: dict) -> Folder:
    """A folder as it was checked when the comparison was planned."""
    kind = CocoFolder if 'num_instances' in value else ImageFolder
    root, classes = Path(value['root']), tuple(value['classes'])
    return kind(**value | {'root': root, 'classes': classes})
