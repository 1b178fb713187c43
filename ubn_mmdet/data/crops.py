"""Crops of annotated objects, to pre-train a backbone by classification.

From a COCO-format folder to one that :class:`~.image_folder.ImageFolder` opens.
"""

import hashlib
import json
import os
import random
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps

from ..layers.checks import check_count
from ..records import claim_folder
from .coco_folder import SPLITS, CocoFolder, annotation_file
from .image_folder import CLASSES, list_file, write_lists

# Raise it with any change that alters a crop or which there are.
VERSION = 1

_RECORD = 'crops.json'
_SEED = 0
# Around the object, as a fraction of its longer side.
_MARGIN = 0.1
# Beyond the image's edge: ImageNet's mean, which is 0 to the network.
_GREY = (124, 116, 104)
_QUALITY = 95  # of the JPEGs
_TOLD_EVERY = 500  # images


def make_crops(
    source: CocoFolder,
    folder: str | os.PathLike,
    size: int = 64,
    min_size: int = 16,
    max_per_class: int | None = None,
    progress: Callable[[str], object] = print,
) -> Path:
    """Cut the objects of ``source`` out of their images; each split from its own.

    A crop is a square around an object's box, resized. Crowds, and objects too small,
    are left out, and so is a class without a training crop. The same arguments give the
    same crops. A folder that already holds them is left as it is; an interrupted one is
    made again.

    Args:
        source: Where from.
        folder: Where to; must be missing, empty, or made with the same arguments.
        size: Side of the crops in pixels, at least 8.
        min_size: The least shorter side of an object's box, in pixels, at least 1.
        max_per_class: Keep this many crops of a class in each split, drawn at random;
            None keeps all.
        progress: Called with a line of text now and then.

    Returns:
        ``folder``.

    Raises:
        TypeError: For an argument that is no integer.
        ValueError: For an argument out of its range, or if a split has no crop.
        RecordError: If the folder holds something else.
    """
    check_count('size', size, least=8)
    check_count('min_size', min_size)
    if max_per_class is not None:
        check_count('max_per_class', max_per_class)
    folder = Path(folder)
    texts = {s: (source.root / annotation_file(s)).read_bytes() for s in SPLITS}
    record = {
        'version': VERSION,
        'source': {s: hashlib.sha256(text).hexdigest() for s, text in texts.items()},
        'size': size,
        'min_size': min_size,
        'max_per_class': max_per_class,
    }
    claim_folder(folder, _RECORD, record, 'crops')
    if all((folder / name).is_file() for name in (CLASSES, *map(list_file, SPLITS))):
        progress(f'{folder} already holds these crops')
        return folder

    contents = {split: json.loads(text) for split, text in texts.items()}
    chosen = {
        split: _choose(content['annotations'], min_size, max_per_class)
        for split, content in contents.items()
    }
    there = {a['category_id'] for a in chosen['train']}
    categories = [c for c in contents['train']['categories'] if c['id'] in there]
    labels = {category['id']: label for label, category in enumerate(categories)}
    folders = [_folder_name(i, c['name']) for i, c in enumerate(categories)]
    samples: dict[str, list[tuple[str, int]]] = {split: [] for split in SPLITS}
    for split, content in contents.items():
        for name in folders:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        names = {image['id']: image['file_name'] for image in content['images']}
        by_image = defaultdict(list)
        for annotation in chosen[split]:
            if annotation['category_id'] in labels:
                by_image[names[annotation['image_id']]].append(annotation)
        if not by_image:
            raise ValueError(
                f'{source.root} has no {split} object whose shorter side is at least '
                f'{min_size} pixels'
            )
        for done, (name, annotations) in enumerate(by_image.items(), 1):
            with Image.open(source.root / split / name) as opened:
                # The boxes are those of photographs turned upright.
                image = ImageOps.exif_transpose(opened).convert('RGB')
            for annotation in annotations:
                label = labels[annotation['category_id']]
                file = f'{folders[label]}/{annotation["id"]}.jpg'
                crop = _crop(image, annotation['bbox'], size)
                crop.save(folder / split / file, quality=_QUALITY, subsampling=0)
                samples[split].append((file, label))
            if done % _TOLD_EVERY == 0 or done == len(by_image):
                progress(f'{folder / split}: {done} of {len(by_image)} images cropped')
    write_lists(folder, [c['name'] for c in categories], samples)
    return folder


def _choose(
    annotations: list[dict], min_size: int, max_per_class: int | None
) -> list[dict]:
    """The objects to crop, in the order of their ids."""
    by_class = defaultdict(list)
    for annotation in sorted(annotations, key=lambda a: a['id']):
        if not annotation['iscrowd'] and min(annotation['bbox'][2:]) >= min_size:
            by_class[annotation['category_id']].append(annotation)
    chosen = []
    for category, members in sorted(by_class.items()):
        if max_per_class is not None and len(members) > max_per_class:
            members = random.Random(f'{_SEED} {category}').sample(
                members, max_per_class
            )
        chosen += members
    return sorted(chosen, key=lambda a: a['id'])


def _crop(image: Image.Image, box: list[float], size: int) -> Image.Image:
    """The square around a box, ``(size, size)``."""
    x, y, width, height = box
    side = max(1, round(max(width, height) * (1 + 2 * _MARGIN)))
    left, top = round(x + (width - side) / 2), round(y + (height - side) / 2)
    square = Image.new('RGB', (side, side), _GREY)
    square.paste(image, (-left, -top))
    return square.resize((size, size), Image.Resampling.BICUBIC)


def _folder_name(label: int, name: str) -> str:
    return f'{label:03d}_{re.sub(r"[^a-zA-Z0-9-]+", "_", name)}'
