"""A folder of images to classify, laid out as ImageNet is for MMPreTrain.

folder/train/<class>/     images
folder/val/<class>/       images
folder/meta/classes.txt   one class a line, in the order of their labels
folder/meta/train.txt     one image a line: its path below train/ and its label
folder/meta/val.txt
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import write_whole
from .coco_folder import SPLITS

CLASSES = 'meta/classes.txt'


class ImageFolderError(ValueError):
    """The folder cannot be trained on; the message says why."""


@dataclass(frozen=True)
class ImageFolder:
    """A folder whose lists were checked.

    Attributes:
        root: The folder.
        classes: Names, in the order of the labels.
        num_images: Images of each split.
    """

    root: Path
    classes: tuple[str, ...]
    num_images: dict[str, int]

    @classmethod
    def open(cls, root: str | os.PathLike) -> 'ImageFolder':
        """Read the lists, and look whether every image is there.

        Raises:
            ImageFolderError: Naming the first problem.
        """
        root = Path(root)
        classes = tuple(_lines(root / CLASSES))
        num_images = {}
        for split in SPLITS:
            samples = _lines(root / list_file(split))
            for sample in samples:
                name, _, label = sample.rpartition(' ')
                if not label.isdecimal() or int(label) >= len(classes):
                    raise ImageFolderError(
                        f'{root / list_file(split)}: {sample!r} has no label of 0 to '
                        f'{len(classes) - 1}'
                    )
                if not (root / split / name).is_file():
                    raise ImageFolderError(f'{root / split / name} is missing')
            num_images[split] = len(samples)
        return cls(root, classes, num_images)


def list_file(split: str) -> str:
    """The name of a split's list inside the folder."""
    return f'meta/{split}.txt'


def write_lists(
    root: str | os.PathLike,
    classes: Sequence[str],
    samples: dict[str, list[tuple[str, int]]],
) -> None:
    """Write the three files of ``meta/``; they say that all images are there.

    Args:
        root: The folder.
        classes: Names, in the order of the labels.
        samples: Of each split: paths below its folder, with labels.
    """
    contents = {CLASSES: list(classes)}
    for split in SPLITS:
        contents[list_file(split)] = [f'{name} {i}' for name, i in samples[split]]
    for name, lines in contents.items():
        write_whole(Path(root) / name, ''.join(f'{x}\n' for x in lines).encode())


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise ImageFolderError(f'there is no {path}')
    lines = path.read_text().splitlines()
    if not lines:
        raise ImageFolderError(f'{path} is empty')
    return lines
