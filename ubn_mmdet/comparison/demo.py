"""The demo: UBN and its BatchNorm twin on a folder of images, side by side."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ..data.coco_folder import CocoFolder
from ..data.image_size import fitting_size, median_long_side
from ..files import write_whole
from ..paths import comparisons_dir
from .driver import Driver
from .groups import ResultGroup, read_groups
from .launchers import LocalLauncher
from .predictions_file import read_predictions
from .report import figures, tables
from .report.numbers import numbers_of
from .report.pictures import draw_predictions
from .spec import Comparison
from .workspace import ComparisonError

NAME, RESULTS = 'demo', 'results.jsonl'
TABLE, CURVES, PICTURES = FILES = 'results.md', 'curves.png', 'predictions.png'
OF_BOXES = 'demo/retinanet_r18-scratch_fpn_bn_6e_shapes.py'


def plan_demo(
    folder: CocoFolder, say: Callable[[str], None] = print, **changes: object
) -> Comparison:
    """``comparisons/demo.py`` for a folder, with an image size that fits its images.

    Where these have no masks, the detector is a RetinaNet.

    Args:
        folder: The data.
        say: Is told the image size, and the detector if it is another one.
        changes: Other fields of the comparison; None leaves a field as it is.

    Raises:
        SpecError: If a field cannot be what it is changed to.
    """
    changes = {key: value for key, value in changes.items() if value is not None}
    if 'image_size' not in changes:
        size = changes['image_size'] = fitting_size(folder)
        say(
            f'Images are resized to fit into {size} pixels: the median long side is '
            f'{median_long_side(folder):g}. SIZE= (--size) sets another.'
        )
    if 'detector' not in changes and not folder.has_masks:
        changes['detector'] = OF_BOXES
        say('The annotations have no masks: the detector is a RetinaNet.')
    comparison = Comparison.open(comparisons_dir() / f'{NAME}.py')
    return Comparison.read(
        {**comparison.to_dict(), 'data': str(folder.root), **changes}
    )


def run_demo(
    comparison: Comparison,
    folder: CocoFolder,
    work_dir: str | os.PathLike,
    jobs: int | None = None,
    say: Callable[[str], None] = print,
) -> str:
    """Train, evaluate and write ``FILES``; the table with what it is of.

    Interrupted runs are resumed; finished runs are only reported again.

    Args:
        comparison: From :func:`plan_demo`.
        folder: The data.
        work_dir: Where everything goes; missing, empty, or of the same demo.
        jobs: Runs side by side; by default all of them, as far as there are cores.
        say: Is told the progress.

    Raises:
        ComparisonError: If ``work_dir`` holds something else, or a run diverged or failed;
            what the other one left is reported all the same.
        CodeError: If this is not the code that ``work_dir`` was begun with.
        ResultsError: If its results file is damaged.
    """
    work_dir = Path(work_dir)
    driver = Driver(comparison, folder.root, work_dir, work_dir / RESULTS, say=say)
    before = driver.lines()
    # Side by side, as the threads of one run would wait for each other.
    jobs = jobs or min(len(driver.runs()), len(os.sched_getaffinity(0)))
    driver.run(LocalLauncher(jobs, range(torch.cuda.device_count())))
    if driver.lines() == before:
        say(f'{work_dir} holds the finished runs: delete it to train again')
    [group] = read_groups([driver.results_file])
    # As they were asked for: which of two runs ends first says nothing.
    order = comparison.norm_names()
    runs = sorted(group.runs, key=lambda run: order.index(run.norm))
    group = replace(group, runs=tuple(runs))
    text = write_summary(group, folder, work_dir) if group.runs else ''
    if group.broken:
        records = [run.record for run in group.broken]
        reasons = [f'{r["norm"]} {r["status"]}: {r["error"]}' for r in records]
        raise ComparisonError('\n'.join(reasons))
    return text


def write_summary(group: ResultGroup, folder: CocoFolder, out: Path) -> str:
    """Write ``results.md``, ``curves.png`` and ``predictions.png``; the first's text.

    Args:
        group: Runs of one seed, at least one of them finished.
        folder: Their data.
        out: The folder to write to.
    """
    numbers = numbers_of(group, 'BN')
    curves = figures.curves(numbers, figures.colours({'': numbers}, 'BN'))
    if curves:
        figures.write_figure(out / CURVES, curves)
    paths = {run.norm: run.file('predictions') for run in group.runs}
    predictions = {norm: read_predictions(path) for norm, path in paths.items() if path}
    figures.write_figure(out / PICTURES, draw_predictions(folder, predictions))
    settings, images = group.settings, folder.num_images
    paragraphs = [
        f'# {" and ".join(group.norms)} on {settings["data"]}',
        f'{settings["detector"]}, {settings["image_size"]} pixels, seed '
        f'{group.runs[0].seed}, epochs: {settings["epochs"]}, training images: '
        f'{images["train"]}, validation images: {images["val"]}. COCO metrics:',
        *tables.metrics(numbers),
        tables.costs(numbers),
        'One seed shows that training works, not which norm is better: '
        '`tools/compare_norms.py` compares over seeds.',
        f'![Curves]({CURVES})',
        f'![Truth and predictions]({PICTURES})',
    ]
    text = '\n\n'.join(paragraphs) + '\n'
    write_whole(out / TABLE, text.encode())
    return text
