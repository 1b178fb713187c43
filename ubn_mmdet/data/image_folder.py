"""A folder of images to classify, laid out as ImageNet is for MMPreTrain.

folder/train/<class>/     images
folder/val/<class>/       images
folder/meta/classes.txt   one class a line, in the order of their labels
folder/meta/train.txt     one image per line: its path below train/ and its label
folder/meta/val.txt

``make_crops`` makes one of annotated objects, to pre-train a backbone by classification.
"""

import hashlib
import json
import os
import random
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from ..files import write_whole
from ..layers.checks import check_count
from ..records import claim_folder
from .coco_folder import SPLITS, CocoFolder, annotation_file

CLASSES = 'meta/classes.txt'

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
    lists = {CLASSES: [category['name'] for category in categories]}
    for split, content in contents.items():
        lists[list_file(split)] = samples = []
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
                words = re.sub('[^a-zA-Z0-9-]+', '_', lists[CLASSES][label])
                file = f'{label:03d}_{words}/{annotation["id"]}.jpg'
                path = folder / split / file
                path.parent.mkdir(parents=True, exist_ok=True)
                crop = _crop(image, annotation['bbox'], size)
                crop.save(path, quality=_QUALITY, subsampling=0)
                samples.append(f'{file} {label}')
            if done % _TOLD_EVERY == 0 or done == len(by_image):
                progress(f'{folder / split}: {done} of {len(by_image)} images cropped')
    # They say that all images are there.
    for name, lines in lists.items():
        write_whole(folder / name, ''.join(f'{line}\n' for line in lines).encode())
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
            rng = random.Random(f'{_SEED} {category}')
            members = rng.sample(members, max_per_class)
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


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise ImageFolderError(f'there is no {path}')
    lines = path.read_text().splitlines()
    if not lines:
        raise ImageFolderError(f'{path} is empty')
    return lines
