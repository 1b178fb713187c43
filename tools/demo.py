"""Train a detector with UBN and with BatchNorm on a small data set, and show both.

After an interruption, the same command resumes. Runs use the code of the last commit.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ubn_mmdet.comparison.driver import Driver
from ubn_mmdet.comparison.launchers import LocalLauncher
from ubn_mmdet.comparison.predictions import read_predictions
from ubn_mmdet.comparison.report import figures, tables
from ubn_mmdet.comparison.report.numbers import numbers_of
from ubn_mmdet.comparison.report.pictures import draw_predictions
from ubn_mmdet.comparison.results import ResultGroup, ResultsError, read_groups
from ubn_mmdet.comparison.spec import Comparison, SpecError
from ubn_mmdet.comparison.workspace import ComparisonError, claim, run_from_copy
from ubn_mmdet.data.coco_folder import CocoFolder, CocoFolderError, annotation_file
from ubn_mmdet.data.shapes import make_shapes
from ubn_mmdet.files import write_whole
from ubn_mmdet.mm.toolbox import ToolboxError, require_toolbox
from ubn_mmdet.mm.tools import add_cfg_options, ended_by, resumable, tool_parser
from ubn_mmdet.paths import comparisons_dir
from ubn_mmdet.records import RecordError

say = partial(print, flush=True)  # at once, also into a pipe
SHAPES = Path('data/shapes')
WORK_DIR = Path('work_dirs/demo')
NAME, RESULTS = 'demo', 'results.jsonl'
TABLE, CURVES, PICTURES = FILES = 'results.md', 'curves.png', 'predictions.png'
OF_BOXES = 'demo/retinanet_r18-scratch_fpn_bn_6e_shapes.py'
# Image sizes: batches are padded to a multiple of the deepest feature maps' stride anyway.
# Below the smallest, these maps have fewer than 4 x 4 cells. At the largest, a step takes
# four times that of 160 pixels.
STRIDE, SMALLEST, LARGEST = 32, 128, 320
ERRORS = (
    *(CocoFolderError, ComparisonError, RecordError),
    *(ResultsError, SpecError, ToolboxError),
)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = tool_parser(__doc__)
    add = parser.add_argument
    add(
        '--data',
        type=Path,
        help='a COCO-format folder: train/, val/, instances_train.json, '
        f'instances_val.json (default: generated shapes in {SHAPES})',
    )
    add(
        '--size',
        type=int,
        metavar='PIXELS',
        help='images are resized to fit into a square of this side (default: one that '
        "fits the folder's images)",
    )
    add('--epochs', type=int, help='epochs to train (default: 6)')
    add(
        '--config',
        help='the detector, a config below configs/ or a path (default: Mask R-CNN R18)',
    )
    add_cfg_options(parser)
    add(
        '--jobs',
        type=int,
        choices=[1, 2],
        help='2: both runs in parallel (default on more than one core); 1: one after the '
        'other',
    )
    add(
        '--work-dir',
        type=Path,
        help=f'where results go (default: {WORK_DIR}, and {WORK_DIR}-NAME for a folder '
        'NAME of your own)',
    )
    return parser.parse_args()


def plan_demo(
    folder: CocoFolder, say: Callable[[str], None] = say, **changes: object
) -> Comparison:
    """``comparisons/demo.py`` for a folder, with an image size that fits its images.

    Where these have no masks, the detector is a RetinaNet. ``changes`` are other fields of
    the comparison; None leaves a field as it is.
    """
    changes = {key: value for key, value in changes.items() if value is not None}
    if 'image_size' not in changes:
        # The median, which a few odd images do not move.
        content = json.loads((folder.root / annotation_file('train')).read_bytes())
        side = statistics.median(
            max(i['width'], i['height']) for i in content['images']
        )
        size = min(max(STRIDE * round(side / STRIDE), SMALLEST), LARGEST)
        changes['image_size'] = size
        say(
            f'Images are resized to fit into {size} pixels: the median long side is '
            f'{side:g}. SIZE= (--size) sets another.'
        )
    if 'detector' not in changes and not folder.has_masks:
        changes['detector'] = OF_BOXES
        say('The annotations have no masks: the detector is a RetinaNet.')
    comparison = Comparison.open(comparisons_dir() / f'{NAME}.py')
    changes['data'] = str(folder.root)
    return replace(comparison, **changes)  # type: ignore[arg-type]


def run_demo(
    comparison: Comparison,
    folder: CocoFolder,
    work_dir: Path,
    commit: str,
    jobs: int | None = None,
    say: Callable[[str], None] = say,
) -> str:
    """Train, evaluate and write ``FILES``; the table with what it is of.

    Raises:
        ComparisonError: If a run diverged or failed. What the other one left is reported
            all the same.
    """
    driver = Driver(comparison, folder.root, work_dir, work_dir / RESULTS, commit, say)
    before = driver.lines()
    # Side by side, as the threads of one run would wait for each other.
    jobs = jobs or min(len(comparison.all_runs), len(os.sched_getaffinity(0)))
    driver.run(LocalLauncher(jobs, range(torch.cuda.device_count())))
    if driver.lines() == before:
        say(f'{work_dir} holds the finished runs: delete it to train again')
    group, *others = read_groups([driver.results_file])
    if others:
        raise ComparisonError(
            f'{work_dir} holds runs of another device or of other versions: delete it'
        )
    # As they were asked for: which of two runs ends first says nothing.
    order = list(comparison.planned())
    runs = sorted(group.runs, key=lambda run: order.index(run.norm))
    group = replace(group, runs=tuple(runs))
    text = write_summary(group, folder, work_dir) if group.runs else ''
    if group.broken:
        records = [run.record for run in group.broken]
        reasons = [f'{r["norm"]} {r["status"]}: {r["error"]}' for r in records]
        raise ComparisonError('\n'.join(reasons))
    return text


def write_summary(group: ResultGroup, folder: CocoFolder, out: Path) -> str:
    """Write ``FILES`` for runs of one seed, at least one of them finished; the table."""
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


def main() -> None:
    """Run the demo; what is wrong with toolbox, data or settings ends it with a message."""
    args = parse_args()
    with resumable(), ended_by(*ERRORS):
        require_toolbox()
        name = args.data and args.data.resolve().name
        default = Path(f'{WORK_DIR}-{name}') if name else WORK_DIR
        work_dir = args.work_dir or default
        folder = CocoFolder.open(args.data or make_shapes(SHAPES, progress=say))
        commit = claim(work_dir, NAME)
        run_from_copy(commit, work_dir / 'code', say)
        comparison = plan_demo(
            folder,
            say,
            image_size=args.size,
            epochs=args.epochs,
            detector=args.config,
            options=args.cfg_options,
        )
        text = run_demo(comparison, folder, work_dir, commit, args.jobs, say)
    print(f'\n{text}\nIn {work_dir}: {", ".join(FILES)}')


if __name__ == '__main__':
    main()
