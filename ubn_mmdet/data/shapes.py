"""A generated data set for instance segmentation, in COCO format.

Textured, rotated shapes of four classes on textured backgrounds. A class has a typical
hue, but the hues of neighbouring classes overlap, so only the outline identifies a class.
Later shapes cover earlier ones. Behind them lie small strokes and blobs of any hue that
belong to no class. Every shape is annotated with its exact visible pixels.
"""

import colorsys
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..files import write_whole
from ..layers.checks import check_count
from ..records import claim_folder
from .coco_folder import SPLITS, annotation_file
from .masks import mask_annotation

CLASSES = ('ellipse', 'rectangle', 'triangle', 'star')
MIN_IMAGE_SIZE = 64

# Raise it with any change that alters a drawn pixel or an annotation: a folder drawn
# by another version is then refused, not taken for this one.
VERSION = 1

_RECORD = 'shapes.json'
_SUPERSAMPLING = 4
_MAX_OBJECTS = 6
_MIN_OBJECTS = 2
# Diameter of the circle around a shape, as a fraction of the image's side.
_DIAMETER = (0.16, 0.46)
# A shape is placed only if it and all shapes below it keep this fraction visible.
_MIN_VISIBLE = 0.4
_PLACEMENT_TRIES = 20
# Of a class's hue, in [0, 1); the four typical hues are a quarter turn apart.
_HUE_DEVIATION = 0.08


def make_shapes(
    folder: str | os.PathLike,
    num_train: int = 400,
    num_val: int = 100,
    image_size: int = 160,
    seed: int = 0,
    progress: Callable[[str], object] = print,
) -> Path:
    """Draw the data set into ``folder`` and return the folder's path.

    Writes ``train/*.png``, ``val/*.png``, ``shapes.json`` (what was asked for) and, last,
    ``instances_train.json`` and ``instances_val.json``. An image depends on ``seed``,
    its split, its index and ``image_size`` alone. A folder that already holds this data
    set is left as it is; one whose drawing was interrupted is drawn again.

    Args:
        folder: Where to; must be missing, empty, or drawn with the same arguments.
        num_train: Training images, at least 1.
        num_val: Validation images, at least 1.
        image_size: Side of the square images in pixels, at least 64.
        seed: Of the drawing, at least 0.
        progress: Called with a line of text now and then.

    Raises:
        TypeError: An argument is no integer.
        ValueError: An argument is out of its range.
        RecordError: The folder holds something else.
    """
    check_count('num_train', num_train)
    check_count('num_val', num_val)
    check_count('image_size', image_size, least=MIN_IMAGE_SIZE)
    check_count('seed', seed, least=0)
    folder = Path(folder)
    counts = {'num_train': num_train, 'num_val': num_val}
    record = {'version': VERSION, **counts, 'image_size': image_size, 'seed': seed}
    claim_folder(folder, _RECORD, record, 'generated shapes')
    if all((folder / annotation_file(split)).is_file() for split in SPLITS):
        progress(f'{folder} already holds this data set')
        return folder

    contents = {
        split: _draw_split(folder / split, count, image_size, seed, progress)
        for split, count in zip(SPLITS, counts.values(), strict=True)
    }
    # They say that the images are all there, so they are written last.
    for split, content in contents.items():
        text = json.dumps(content) + '\n'
        write_whole(folder / annotation_file(split), text.encode())
    return folder


def draw_image(
    seed: int, split: str, index: int, image_size: int
) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Draw image ``index`` of a split; the same arguments give the same image.

    Returns:
        Its pixels, ``(S, S, 3)`` uint8, RGB; and of each instance, lowest first, the index
        into ``CLASSES`` and the visible pixels, ``(N, S, S)`` bool.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    base = rng.uniform(60, 190) + rng.normal(0, 15, 3)
    canvas = _texture(rng, image_size, base, strength=rng.uniform(4, 16))
    for layer, coverage in _clutter(rng, image_size):
        canvas = _cover(canvas, layer, coverage)

    # The index of the topmost shape at each pixel; -1 is background.
    owner = np.full((image_size, image_size), -1)
    labels: list[int] = []
    areas: list[float] = []
    for _ in range(rng.integers(_MIN_OBJECTS, _MAX_OBJECTS + 1)):
        label = int(rng.integers(len(CLASSES)))
        placed = _place(rng, label, owner, areas)
        if placed is None:
            continue
        coverage, area = placed
        owner[coverage >= 0.5] = len(labels)
        labels.append(label)
        areas.append(area)
        colour = _colour(rng, rng.normal(label / len(CLASSES), _HUE_DEVIATION))
        layer = _texture(rng, image_size, colour, strength=rng.uniform(5, 25))
        canvas = _cover(canvas, layer, coverage)

    canvas = canvas + rng.normal(0, rng.uniform(2, 8), canvas.shape)
    pixels = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return pixels, labels, owner == np.arange(len(labels))[:, None, None]


def _place(
    rng: np.random.Generator, label: int, owner: np.ndarray, areas: list[float]
) -> tuple[np.ndarray, float] | None:
    """A place for a new topmost shape: its coverage and its whole area in pixels.

    None where no try left enough of every shape visible.
    """
    size = owner.shape[0]
    for _ in range(_PLACEMENT_TRIES):
        outline = _outline(rng, label)
        # Log-uniform, so that small shapes are no rarer than large ones.
        diameter = size * math.exp(rng.uniform(*np.log(_DIAMETER)))
        centre = rng.uniform(0.1, 0.9, 2) * size
        points = centre + outline * diameter / 2
        coverage = _coverage(points, size)
        inside = coverage >= 0.5
        area = _polygon_area(points)
        left = np.bincount(owner[~inside] + 1, minlength=len(areas) + 1)[1:]
        seen, whole = np.array([*left, inside.sum()]), np.array([*areas, area])
        if (seen >= _MIN_VISIBLE * whole).all():
            return coverage, area
    return None


def _outline(rng: np.random.Generator, label: int) -> np.ndarray:
    """A rotated polygon of the class inside the unit circle, ``(P, 2)``."""
    name = CLASSES[label]
    if name == 'ellipse':
        points = _on_circle(np.arange(48) / 48)
        points[:, 1] *= rng.uniform(0.55, 1)
    elif name == 'rectangle':
        ratio = rng.uniform(0.45, 1)
        half = np.array([1, ratio]) / math.hypot(1, ratio)
        points = half * [[-1, -1], [1, -1], [1, 1], [-1, 1]]
    elif name == 'triangle':
        points = _on_circle(np.arange(3) / 3 + rng.uniform(-0.05, 0.05, 3))
    else:
        points = _on_circle(np.arange(10) / 10)
        points[1::2] *= rng.uniform(0.4, 0.5)
    return points @ _rotation(rng.uniform(0, 2 * math.pi))


def _on_circle(turns: np.ndarray) -> np.ndarray:
    angle = 2 * math.pi * turns
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _rotation(angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])


def _polygon_area(points: np.ndarray) -> float:
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _coverage(points: np.ndarray, size: int) -> np.ndarray:
    """The covered part of each pixel by a polygon, ``(size, size)`` in 0..1."""
    large = Image.new('L', (size * _SUPERSAMPLING,) * 2)
    corners = [tuple(point) for point in points * _SUPERSAMPLING]
    ImageDraw.Draw(large).polygon(corners, fill=255)
    return np.asarray(large.reduce(_SUPERSAMPLING), dtype=np.float64) / 255


def _cover(canvas: np.ndarray, layer: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    return canvas + coverage[..., None] * (layer - canvas)


def _texture(
    rng: np.random.Generator, size: int, colour: np.ndarray, strength: float
) -> np.ndarray:
    """A textured area around ``colour``, ``(size, size, 3)``; strength in grey levels."""
    kind = rng.integers(3)
    if kind == 0:
        pattern = _smooth_noise(rng, size, cells=size // 5)
    elif kind == 1:
        pattern = _waves(rng, size)
    else:
        pattern = _waves(rng, size) * _waves(rng, size)
    shading = _smooth_noise(rng, size, cells=3)
    tint = rng.uniform(0.5, 1, 3)
    return colour + (strength * pattern + 12 * shading)[..., None] * tint


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    coarse = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def _waves(rng: np.random.Generator, size: int) -> np.ndarray:
    angle, phase = rng.uniform(0, 2 * math.pi, 2)
    period = rng.uniform(5, 16)
    y, x = np.mgrid[:size, :size]
    along = x * math.cos(angle) + y * math.sin(angle)
    return np.sin(2 * math.pi * along / period + phase)


def _colour(rng: np.random.Generator, hue: float) -> np.ndarray:
    """A more or less saturated colour of a hue in [0, 1): ``(3,)``, 0..255."""
    saturation, value = rng.uniform(0.5, 0.95), rng.uniform(0.5, 0.95)
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _clutter(
    rng: np.random.Generator, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Small strokes and blobs of no class: layer and coverage of each."""
    for _ in range(rng.integers(4, 10)):
        length = size * rng.uniform(0.03, 0.06)
        width = length
        if rng.random() < 0.6:
            length, width = size * rng.uniform(0.1, 0.35), rng.uniform(1, 3)
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
        corners = (corners + rng.uniform(-0.15, 0.15, (4, 2))) * [length, width]
        points = corners @ _rotation(rng.uniform(0, 2 * math.pi))
        colour = _colour(rng, rng.uniform())
        coverage = _coverage(points + rng.uniform(0, size, 2), size)
        yield np.broadcast_to(colour, (size, size, 3)), coverage


def _draw_split(
    folder: Path, count: int, image_size: int, seed: int, progress: Callable
) -> dict:
    """Draw the images of a split into its folder and return its COCO annotations."""
    folder.mkdir(exist_ok=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for index in range(count):
        pixels, labels, masks = draw_image(seed, folder.name, index, image_size)
        name, size = f'{index:06d}.png', {'width': image_size, 'height': image_size}
        Image.fromarray(pixels).save(folder / name)
        images.append({'id': index + 1, 'file_name': name, **size})
        for label, mask in zip(labels, masks, strict=True):
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': index + 1,
                    'category_id': label + 1,
                    'iscrowd': 0,
                    **mask_annotation(mask),
                }
            )
        if (index + 1) % 100 == 0 or index + 1 == count:
            progress(f'drawing {folder}: {index + 1} of {count} images')
    return {
        'info': {'description': f'generated shapes, seed {seed}'},
        'images': images,
        'annotations': annotations,
        'categories': [{'id': i, 'name': name} for i, name in enumerate(CLASSES, 1)],
    }
