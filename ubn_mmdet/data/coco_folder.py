"""A folder of images with COCO-format instances, checked before anything is trained.

folder/train/                   images
folder/val/                     images
folder/instances_train.json     COCO instances: images, annotations, categories
folder/instances_val.json

Annotations may be boxes alone, with ``segmentation`` empty or absent.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from PIL import ExifTags, Image

SPLITS = ('train', 'val')
# What a file cannot be read without.
NEEDED = {
    'images': {'id', 'file_name'},
    'annotations': {'id'},
    'categories': {'id', 'name'},
}
# Annotation tools round: a box may lie this far outside its image, in pixels.
TOLERANCE = 1.0
SHOWN_PROBLEMS = 10
SHOWN_IDS = 5


class CocoFolderError(ValueError):
    """The folder cannot be trained on; the message says what is wrong where."""


@dataclass(frozen=True)
class CocoFolder:
    """A folder that passed all checks.

    Attributes:
        root: The folder.
        classes: Category names in the order of the files, which is how the toolbox
            numbers its labels.
        num_images: Images of each split.
        has_masks: Whether every annotation has a ``segmentation``.
    """

    root: Path
    classes: tuple[str, ...]
    num_images: dict[str, int]
    has_masks: bool = True

    @classmethod
    def open(cls, root: str | os.PathLike) -> 'CocoFolder':
        """Check the folder and describe it.

        Reads both json files and the header of every image.

        Raises:
            CocoFolderError: Naming the first problems and the number of all; or if
                hotcoco is not installed.
        """
        root = Path(root)
        if not root.is_dir():
            raise CocoFolderError(f'{root} is not a folder')
        problems: list[str] = []
        contents = {}
        for split in SPLITS:
            contents[split], found = _read(root, split)
            problems += found or _split_problems(root, split, contents[split])
        problems += _category_problems(contents)
        if problems:
            more = len(problems) - SHOWN_PROBLEMS
            lines = problems[:SHOWN_PROBLEMS] + [f'and {more} more'] * (more > 0)
            raise CocoFolderError(
                '\n  '.join([f'{root} cannot be trained on:', *lines])
            )
        return cls(
            root=root,
            classes=tuple(c['name'] for c in contents['train']['categories']),
            num_images={s: len(contents[s]['images']) for s in SPLITS},
            has_masks=all(
                a.get('segmentation')
                for s in SPLITS
                for a in contents[s]['annotations']
            ),
        )


def annotation_file(split: str) -> str:
    """The name of a split's annotations inside the folder."""
    return f'instances_{split}.json'


def _read(root: Path, split: str) -> tuple[dict, list[str]]:
    """A split's file, and what hotcoco finds wrong with how it hangs together."""
    try:
        from hotcoco import COCO
    except ModuleNotFoundError:
        raise CocoFolderError(
            'hotcoco, which checks folders, is not installed: `pip install hotcoco`'
        ) from None
    path = root / annotation_file(split)
    if not (root / split).is_dir():
        raise CocoFolderError(f'{root} has no folder {split}/ with the {split} images')
    if not path.is_file():
        raise CocoFolderError(f'{root} has no {path.name}')
    try:
        errors = COCO(path).healthcheck()['errors']
    except ValueError as error:
        raise CocoFolderError(f'{path} is not in COCO format: {error}') from None
    content = json.loads(path.read_bytes())
    for name, keys in NEEDED.items():
        if not isinstance(content, dict) or not content.get(name):
            raise CocoFolderError(f'{path} has no {name}')
        for i, entry in enumerate(content[name]):
            for key in keys - entry.keys():
                raise CocoFolderError(f'{path}: {name}[{i}] has no {key!r}')
    return content, [f'{path.name}: {_shown(error)}' for error in errors]


def _shown(error: dict) -> str:
    ids = error['affected_ids']
    more = ', ...' if len(ids) > SHOWN_IDS else ''
    return f'{error["message"]} ({", ".join(map(str, ids[:SHOWN_IDS]))}{more})'


def _category_problems(contents: dict[str, dict]) -> Iterator[str]:
    train, val = (
        [(c['id'], c['name']) for c in contents[split]['categories']]
        for split in SPLITS
    )
    if train != val:
        ours, theirs = next(
            pair for pair in zip_longest(train, val) if pair[0] != pair[1]
        )
        yield (
            'the categories (id, name) must be the same in the same order: '
            f'{ours} in {annotation_file("train")}, {theirs} in {annotation_file("val")}'
        )


def _split_problems(root: Path, split: str, content: dict) -> Iterator[str]:
    name = annotation_file(split)
    images = {image['id']: image for image in content['images']}
    for image in images.values():
        if problem := _image_problem(root / split, image):
            yield f'{name}, image {image["id"]}: {problem}'
    if all(annotation.get('iscrowd') for annotation in content['annotations']):
        yield f'{name} has no annotation that is not a crowd'
    for annotation in content['annotations']:
        if problem := _annotation_problem(annotation, images[annotation['image_id']]):
            yield f'{name}, annotation {annotation["id"]}: {problem}'


def _image_problem(folder: Path, image: dict) -> str | None:
    path = folder / image['file_name']
    try:
        with Image.open(path) as opened:
            size = opened.size
            # The toolbox's loader turns photographs upright.
            if opened.getexif().get(ExifTags.Base.Orientation, 1) >= 5:
                size = size[::-1]
    except FileNotFoundError:
        return f'{path} is missing'
    except OSError:
        return f'{path} is not a readable image'
    stated = image['width'], image['height']
    if size != stated:
        return f'{path} is {size[0]}x{size[1]}, stated as {stated[0]}x{stated[1]}'
    return None


def _annotation_problem(annotation: dict, image: dict) -> str | None:
    for key in ('bbox', 'area', 'iscrowd'):
        if annotation.get(key) is None:
            return f'it has no {key!r}'
    width, height = image['width'], image['height']
    x, y, w, h = box = annotation['bbox']
    if w < 0 or h < 0:
        return f'bbox {box} has a negative size'
    if (
        min(x, y) < -TOLERANCE
        or x + w > width + TOLERANCE
        or y + h > height + TOLERANCE
    ):
        return f'bbox {box} is outside its {width}x{height} image'
    mask = annotation.get('segmentation') or []
    if isinstance(mask, dict):
        counts = mask['counts']
        if mask['size'] != [height, width]:
            return f'the mask has the size {mask["size"]}, its image {[height, width]}'
        if isinstance(counts, list) and sum(counts) != height * width:
            return f"the mask's run lengths end at {sum(counts)} of {height * width}"
    elif any(len(polygon) < 6 or len(polygon) % 2 for polygon in mask):
        return 'a polygon needs at least 3 points x, y'
    return None
