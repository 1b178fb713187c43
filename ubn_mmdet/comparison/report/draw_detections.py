"""What several detectors found, below the truth."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from ...figures import legend_below, write_figure

COLOURS = (
    '#e6194b', '#4363d8', '#3cb44b', '#f58231', '#911eb4',
    '#42d4f4', '#f032e6', '#bfef45', '#9a6324', '#469990',
)  # fmt: skip
# In an image with more objects than these, their scores would hide them.
MAX_SCORES = 20


@dataclass(frozen=True)
class Instances:
    """Objects of one image, most certain last.

    Attributes:
        labels: ``(n,)`` int, indices of classes.
        boxes: ``(n, 4)``, corners x1, y1, x2, y2 in pixels.
        masks: ``(n, H, W)`` bool, or None for boxes alone.
        scores: ``(n,)`` in [0, 1], or None for the truth.
    """

    labels: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray | None = None
    scores: np.ndarray | None = None


@dataclass(frozen=True)
class DetectedImage:
    """An image with what is in it and what was found.

    Attributes:
        image: ``(H, W, 3)`` uint8, RGB.
        rows: The truth and what each detector found, by the titles of their rows; the
            same in all pictures of a figure.
    """

    image: np.ndarray
    rows: Mapping[str, Instances]


def draw_detections(
    pictures: Sequence[DetectedImage], classes: Sequence[str], path: str | os.PathLike
) -> None:
    """Draw the rows one below the other, a column an image, into one PNG."""
    columns, titles = len(pictures), list(pictures[0].rows)
    size = 2.6 * columns, 2.55 * len(titles) + 0.5
    figure = Figure(figsize=size, dpi=120, layout='constrained')
    axes = figure.subplots(len(titles), columns, squeeze=False)
    shown = set()
    for column, picture in enumerate(pictures):
        for row, title in enumerate(titles):
            instances = picture.rows[title]
            _draw(axes[row, column], picture.image, instances)
            shown.update(instances.labels.tolist())
    for row, title in enumerate(titles):
        axes[row, 0].set_ylabel(title, fontsize=14)
    handles = [
        Patch(color=_colour(label), label=classes[label]) for label in sorted(shown)
    ]
    legend_below(figure, handles)
    write_figure(path, figure)


def _draw(axes: Axes, image: np.ndarray, instances: Instances) -> None:
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    for i, label in enumerate(instances.labels.tolist()):
        colour = _colour(label)
        if instances.masks is not None and instances.masks[i].any():
            mask = instances.masks[i]
            # Filled by contour, so that masks keep their outline when enlarged.
            axes.contourf(mask, levels=[0.5, 1.5], colors=[colour], alpha=0.4)
            axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.5)
        x1, y1, x2, y2 = instances.boxes[i]
        if instances.masks is None:
            box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour)
            axes.add_patch(box)
        if instances.scores is not None and len(instances.labels) <= MAX_SCORES:
            axes.text(
                x1,
                max(y1, 0),
                f'{instances.scores[i]:.2f}',
                color='white',
                fontsize=7,
                clip_on=True,
                verticalalignment='top',
                bbox={'facecolor': colour, 'pad': 1, 'linewidth': 0, 'alpha': 0.8},
            )


def _colour(label: int) -> str:
    return COLOURS[label % len(COLOURS)]
