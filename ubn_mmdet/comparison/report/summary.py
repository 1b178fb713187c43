"""A comparison of one seed in short: one table, one figure of curves, pictures."""

import os
from collections.abc import Mapping
from pathlib import Path

from ...data.coco_folder import CocoFolder
from ...files import write_whole
from ..groups import Result, ResultGroup
from ..predictions_file import read_predictions
from .coco_table import coco_table
from .detections import detections_of
from .draw_detections import draw_detections
from .numbers import numbers_of
from .print_figures import draw_curves
from .text import count, significant_digits

TABLE, CURVES, PICTURES = FILES = 'results.md', 'curves.png', 'predictions.png'


def write_summary(
    group: ResultGroup, folder: CocoFolder, out: str | os.PathLike
) -> str:
    """Write ``results.md``, ``curves.png`` and ``predictions.png``; the first's text.

    Args:
        group: Runs of one seed, at least one of them finished.
        folder: Their data.
        out: The folder to write to.
    """
    out = Path(out)
    runs = {run.norm: run for run in group.runs}
    draw_curves(numbers_of(group, 'BN', images=''), out / CURVES)
    paths = {norm: run.file('predictions') for norm, run in runs.items()}
    predictions = {n: read_predictions(path) for n, path in paths.items() if path}
    pictures = detections_of(folder, predictions)
    draw_detections(pictures, folder.classes, out / PICTURES)
    text = _text(group, runs, folder)
    write_whole(out / TABLE, text.encode())
    return text


def _text(group: ResultGroup, runs: Mapping[str, Result], folder: CocoFolder) -> str:
    settings, seed = group.settings, group.runs[0].seed
    images, instances = folder.num_images, folder.num_instances
    paragraphs = [
        f'# {" and ".join(group.norms)} on {settings["data"]}',
        f'{settings["detector"]}, {settings["image_size"]} pixels, seed {seed}, '
        f'{count(settings["epochs"], "epoch")} on {count(images["train"], "image")}. COCO '
        f'metrics on {count(images["val"], "validation image")} with '
        f'{count(instances["val"], "instance")} of '
        f'{count(len(folder.classes), "class", "es")}:',
        coco_table({norm: run.record for norm, run in runs.items()}),
        *(
            f'{run.norm} {run.record["status"]}: {run.record["error"].splitlines()[0]}'
            for run in group.broken
        ),
        f'{_times(runs)} One seed shows that training works, not which norm is better: '
        '`tools/compare_norms.py` compares over seeds.',
        f'![Curves]({CURVES})',
        f'![Truth and predictions]({PICTURES})',
    ]
    return '\n\n'.join(paragraphs) + '\n'


def _times(runs: Mapping[str, Result]) -> str:
    times = {norm: run.number('seconds_per_step') for norm, run in runs.items()}
    words = ', '.join(
        f'{norm} {significant_digits(time)}' for norm, time in times.items()
    )
    return f'Seconds a step: {words}.'
