"""A fixed part of a COCO-format folder: its most frequent classes, fewer images."""

import json
import os
import random
from collections import Counter
from pathlib import Path

from ..files import write_whole
from .coco_folder import SPLITS, CocoFolder, annotation_file

_SEED = 0


def make_subset(
    source: CocoFolder,
    folder: str | os.PathLike,
    classes: int | None = None,
    train_images: int | None = None,
) -> Path:
    """Write the annotations of a part of ``source``; its images are linked, not copied.

    The same arguments give the same annotations, byte for byte, on every machine.

    Args:
        source: What to take a part of.
        folder: Where to.
        classes: Keep the classes with the most training annotations, crowds not counted;
            images of either split without any of them go. None keeps all.
        train_images: Keep this many training images, drawn at random; None keeps all.

    Returns:
        ``folder``, a COCO-format folder.

    Raises:
        ValueError: If there are fewer classes or images than asked for.
    """
    folder = Path(folder)
    contents = {
        split: json.loads((source.root / annotation_file(split)).read_bytes())
        for split in SPLITS
    }
    if classes is not None:
        kept = _most_frequent(contents['train'], classes)
        for content in contents.values():
            _keep(content, 'categories', 'category_id', kept)
            seen = {a['image_id'] for a in content['annotations']}
            _keep(content, 'images', 'image_id', seen)
    if train_images is not None:
        images = sorted(contents['train']['images'], key=lambda image: image['id'])
        if train_images > len(images):
            raise ValueError(
                f'there are {len(images)} training images to keep {train_images} of'
            )
        drawn = random.Random(_SEED).sample(images, train_images)
        contents['train']['images'] = images
        _keep(contents['train'], 'images', 'image_id', {i['id'] for i in drawn})
    for split, content in contents.items():
        text = json.dumps(content, sort_keys=True)
        write_whole(folder / annotation_file(split), text.encode())
        link = folder / split
        if not link.exists():
            link.symlink_to((source.root / split).resolve(), target_is_directory=True)
    return folder


def _most_frequent(content: dict, number: int) -> set[int]:
    counts = Counter(
        a['category_id'] for a in content['annotations'] if not a['iscrowd']
    )
    if number > len(counts):
        raise ValueError(f'there are {len(counts)} classes to keep {number} of')
    ranked = sorted(counts, key=lambda category: (-counts[category], category))
    return set(ranked[:number])


def _keep(content: dict, what: str, key: str, ids: set[int]) -> None:
    """Keep the images or categories of these ``ids``, and their annotations."""
    content[what] = [one for one in content[what] if one['id'] in ids]
    content['annotations'] = [a for a in content['annotations'] if a[key] in ids]
