"""Pictures of what several detectors found, below the truth; no detector is needed."""

import contextlib
import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from PIL import Image, ImageOps
from pycocotools.coco import COCO

from ...data.coco_folder import CocoFolder, annotation_file
from .figures import legend_below

SHOWN_IMAGES = 6
MIN_SCORE = 0.5
# In an image with more objects than these, their scores would hide them.
MAX_SCORES = 20
COLOURS = (
    '#e6194b', '#4363d8', '#3cb44b', '#f58231', '#911eb4',
    '#42d4f4', '#f032e6', '#bfef45', '#9a6324', '#469990',
)  # fmt: skip


def draw_predictions(
    folder: CocoFolder, predictions: Mapping[str, Sequence[dict]]
) -> Figure:
    """Some validation images, a column each, spread over the data.

    The rows are the truth and what each detector found: ``predictions`` are COCO results
    by the title of the row. What has a score below 0.5 is left out.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(folder.root / annotation_file('val'))
    rows = {'truth': truth.dataset['annotations'], **predictions}
    images = truth.dataset['images']
    chosen = np.linspace(0, len(images) - 1, min(SHOWN_IMAGES, len(images))).astype(int)
    size = 2.6 * len(chosen), 2.55 * len(rows) + 0.5
    figure = Figure(figsize=size, dpi=120, layout='constrained')
    grid = figure.subplots(len(rows), len(chosen), squeeze=False)
    categories = {c['id']: c['name'] for c in truth.dataset['categories']}
    colour = {each: COLOURS[i % len(COLOURS)] for i, each in enumerate(categories)}
    shown = set()
    for column, image in zip(grid.T, (images[i] for i in chosen), strict=True):
        with Image.open(folder.root / 'val' / image['file_name']) as opened:
            # Upright, as the toolbox's loader turns photographs.
            pixels = ImageOps.exif_transpose(opened).convert('RGB')
        for axes, found in zip(column, rows.values(), strict=True):
            objects = [
                each
                for each in found
                if each['image_id'] == image['id']
                and not each.get('iscrowd')
                and each.get('score', 1) >= MIN_SCORE
            ]
            axes.imshow(pixels)
            axes.set(xticks=[], yticks=[])
            with_scores = len(objects) <= MAX_SCORES
            for each in sorted(objects, key=lambda x: x.get('score', 1)):
                mask = truth.annToMask(each) if each.get('segmentation') else None
                _draw(axes, each, mask, colour[each['category_id']], with_scores)
                shown.add(each['category_id'])
    for axes, title in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(title, fontsize=14)
    legend_below(
        figure, [Patch(color=colour[c], label=categories[c]) for c in sorted(shown)]
    )
    return figure


def _draw(
    axes: Axes, each: Mapping, mask: np.ndarray | None, colour: str, with_score: bool
) -> None:
    x, y, width, height = each['bbox']
    if mask is not None and mask.any():
        # Filled by contour, so that masks keep their outline when enlarged.
        axes.contourf(mask, levels=[0.5, 1.5], colors=[colour], alpha=0.4)
        axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.5)
    elif mask is None:
        axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=colour))
    if with_score and 'score' in each:
        box = {'facecolor': colour, 'pad': 1, 'linewidth': 0, 'alpha': 0.8}
        style: dict = {'color': 'white', 'fontsize': 7, 'clip_on': True, 'va': 'top'}
        axes.text(x, max(y, 0), f'{each["score"]:.2f}', bbox=box, **style)
