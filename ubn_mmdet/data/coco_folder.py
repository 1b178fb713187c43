"""A folder of images with COCO-format instances, checked before anything is trained.

folder/train/                   images
folder/val/                     images
folder/instances_train.json     COCO instances: images, annotations, categories
folder/instances_val.json

``segmentation`` may be absent or empty: such a folder is for detectors without masks.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TypeGuard

from PIL import ExifTags, Image
from pycocotools import mask as coco_mask

SPLITS = ('train', 'val')
# Annotation tools round; a box or point may lie this far outside its image, in pixels.
TOLERANCE = 1.0
SHOWN_PROBLEMS = 10


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
        num_instances: Annotations of each split.
        has_masks: Whether each annotation has a mask.
    """

    root: Path
    classes: tuple[str, ...]
    num_images: dict[str, int]
    num_instances: dict[str, int]
    has_masks: bool = True

    @classmethod
    def open(cls, root: str | os.PathLike) -> 'CocoFolder':
        """Check the folder and describe it.

        Reads both json files and the header of every image.

        Raises:
            CocoFolderError: Naming the first problems and the number of all.
        """
        root = Path(root)
        if not root.is_dir():
            raise CocoFolderError(f'{root} is not a folder')
        contents = {split: _read(root, split) for split in SPLITS}
        problems = chain(
            _category_problems(contents),
            *(_split_problems(root, split, contents[split]) for split in SPLITS),
        )
        _raise_if_any(root, problems)
        return cls(
            root=root,
            classes=tuple(c['name'] for c in contents['train']['categories']),
            num_images={s: len(contents[s]['images']) for s in SPLITS},
            num_instances={s: len(contents[s]['annotations']) for s in SPLITS},
            has_masks=all(
                annotation.get('segmentation')
                for content in contents.values()
                for annotation in content['annotations']
            ),
        )


def annotation_file(split: str) -> str:
    """The name of a split's annotations inside the folder."""
    return f'instances_{split}.json'


def _read(root: Path, split: str) -> dict:
    path = root / annotation_file(split)
    if not (root / split).is_dir():
        raise CocoFolderError(f'{root} has no folder {split}/ with the {split} images')
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CocoFolderError(f'{root} has no {path.name}') from None
    except ValueError as error:
        raise CocoFolderError(f'{path} is not readable as json: {error}') from None
    needed = {
        'images': ('id', 'file_name', 'width', 'height'),
        'annotations': (
            'id',
            'image_id',
            'category_id',
            'bbox',
            'area',
            'iscrowd',
        ),  # fmt: skip
        'categories': ('id', 'name'),
    }
    for name, keys in needed.items():
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise CocoFolderError(f'{path} has no list {name!r}')
        if not content[name]:
            raise CocoFolderError(f'{path}: the list {name!r} is empty')
        for i, item in enumerate(content[name]):
            if not isinstance(item, dict):
                raise CocoFolderError(f'{path}: {name}[{i}] is {item!r}, not an object')
            missing = [key for key in keys if key not in item]
            if missing:
                raise CocoFolderError(f'{path}: {name}[{i}] has no {missing[0]!r}')
        if repeated := _repeated(item['id'] for item in content[name]):
            raise CocoFolderError(f'{path}: {name} have the id {repeated[0]} twice')
    return content


def _repeated(ids: Iterable) -> list:
    """The first that comes again, in a list; or nothing."""
    seen = set()
    for i in ids:
        if i in seen:
            return [i]
        seen.add(i)
    return []


def _raise_if_any(root: Path, problems: Iterator[str]) -> None:
    shown = list(islice(problems, SHOWN_PROBLEMS))
    if not shown:
        return
    more = sum(1 for _ in problems)
    lines = [f'{root} cannot be trained on:', *shown]
    if more:
        lines.append(f'and {more} more')
    raise CocoFolderError('\n  '.join(lines))


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
    categories = {category['id'] for category in content['categories']}
    for image in images.values():
        if problem := _image_problem(root / split, image):
            yield f'{name}, image {image["id"]}: {problem}'
    if all(annotation['iscrowd'] for annotation in content['annotations']):
        yield f'{name} has no annotation that is not a crowd'
    for annotation in content['annotations']:
        image = images.get(annotation['image_id'])
        if image is None:
            problem = f'there is no image {annotation["image_id"]!r}'
        elif annotation['category_id'] not in categories:
            problem = f'there is no category {annotation["category_id"]!r}'
        else:
            size = image['width'], image['height']
            problem = _box_problem(annotation['bbox'], *size)
            if mask := annotation.get('segmentation'):
                problem = problem or _mask_problem(mask, *size)
        if problem:
            yield f'{name}, annotation {annotation["id"]}: {problem}'


def _image_problem(folder: Path, image: dict) -> str | None:
    path = folder / str(image['file_name'])
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


def _are_numbers(values: object, count: int | None = None) -> TypeGuard[list]:
    return (
        isinstance(values, list)
        and (count is None or len(values) == count)
        and all(isinstance(v, int | float) and math.isfinite(v) for v in values)
    )


def _box_problem(box: object, width: int, height: int) -> str | None:
    if not _are_numbers(box, 4):
        return f'bbox must be four numbers, x, y, width, height; got {box!r}'
    x, y, w, h = box
    if w < 0 or h < 0:
        return f'bbox {box} has a negative size'
    inside = (
        min(x, y) >= -TOLERANCE
        and x + w <= width + TOLERANCE
        and y + h <= height + TOLERANCE
    )
    return None if inside else f'bbox {box} is outside its {width}x{height} image'


def _mask_problem(mask: object, width: int, height: int) -> str | None:
    if isinstance(mask, dict):
        return _run_length_problem(mask, width, height)
    if not isinstance(mask, list):
        return f'segmentation must be polygons or run lengths, got {mask!r}'
    for polygon in mask:
        if not _are_numbers(polygon) or len(polygon) < 6 or len(polygon) % 2:
            return f'a polygon needs at least 3 points x, y, got {polygon!r}'
        xs, ys = polygon[::2], polygon[1::2]
        if (
            min(*xs, *ys) < -TOLERANCE
            or max(xs) > width + TOLERANCE
            or max(ys) > height + TOLERANCE
        ):
            return (
                f'the mask reaches from ({min(xs):g}, {min(ys):g}) to '
                f'({max(xs):g}, {max(ys):g}), outside its {width}x{height} image'
            )
    return None


def _run_length_problem(mask: dict, width: int, height: int) -> str | None:
    if mask.get('size') != [height, width]:
        return (
            f'the mask has the size {mask.get("size")}, '
            f'its image [height, width] = [{height}, {width}]'
        )
    counts = mask.get('counts')
    if isinstance(counts, list):
        readable = _are_numbers(counts) and sum(counts) == height * width
    else:
        try:
            coco_mask.decode(mask)
            readable = True
        except (TypeError, ValueError, KeyError):
            readable = False
    return None if readable else f"the mask's run lengths are broken: {counts!r:.60}"
