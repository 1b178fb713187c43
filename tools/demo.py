"""Train a detector with UBN and with BatchNorm on a small data set, and show both.

After an interruption, the same command resumes. Runs use the code of the last commit.
"""

import argparse
import signal
import sys
from functools import partial
from pathlib import Path

from ubn_mmdet.comparison.code_copy import CodeError, run_from_copy
from ubn_mmdet.comparison.demo import FILES, NAME, plan_demo, run_demo
from ubn_mmdet.comparison.results import ResultsError
from ubn_mmdet.comparison.spec import SpecError
from ubn_mmdet.comparison.workspace import ComparisonError, claim
from ubn_mmdet.data.coco_folder import CocoFolder, CocoFolderError
from ubn_mmdet.data.shapes import make_shapes
from ubn_mmdet.mm.toolbox import ToolboxError, require_toolbox
from ubn_mmdet.mm.tools import add_cfg_options
from ubn_mmdet.records import RecordError

say = partial(print, flush=True)  # at once, also into a pipe
SHAPES = Path('data/shapes')
WORK_DIR = Path('work_dirs/demo')
ERRORS = (
    CocoFolderError,
    CodeError,
    ComparisonError,
    RecordError,
    ResultsError,
    SpecError,
    ToolboxError,
)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--data',
        type=Path,
        help='a COCO-format folder: train/, val/, instances_train.json, '
        f'instances_val.json (default: generated shapes in {SHAPES})',
    )
    parser.add_argument(
        '--size',
        type=int,
        metavar='PIXELS',
        help='images are resized to fit into a square of this side (default: one that '
        "fits the folder's images)",
    )
    parser.add_argument('--epochs', type=int, help='epochs to train (default: 6)')
    parser.add_argument(
        '--config',
        help='the detector, a config below configs/ or a path (default: Mask R-CNN R18)',
    )
    add_cfg_options(parser)
    parser.add_argument(
        '--jobs',
        type=int,
        choices=[1, 2],
        help='2: both runs in parallel (default on more than one core); 1: one after the '
        'other',
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        help=f'where results go (default: {WORK_DIR}, and {WORK_DIR}-NAME for a folder '
        'NAME of your own)',
    )
    return parser.parse_args()


def main() -> None:
    """Run the demo; what is wrong with toolbox, data or settings ends it with a message."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    args = parse_args()
    try:
        require_toolbox()
        work_dir = args.work_dir
        if work_dir is None:
            name = args.data and args.data.resolve().name
            work_dir = Path(f'{WORK_DIR}-{name}') if name else WORK_DIR
        folder = CocoFolder.open(args.data or make_shapes(SHAPES, progress=say))
        run_from_copy(claim(work_dir, NAME), work_dir / 'code', say)
        comparison = plan_demo(
            folder,
            say,
            image_size=args.size,
            epochs=args.epochs,
            detector=args.config,
            options=args.cfg_options,
        )
        text = run_demo(comparison, folder, work_dir, args.jobs, say)
    except ERRORS as error:
        sys.exit(f'demo: {error}')
    except KeyboardInterrupt:
        print('\nInterrupted: the same command resumes.', file=sys.stderr)
        sys.exit(130)
    print(f'\n{text}\nIn {work_dir}: {", ".join(FILES)}')


if __name__ == '__main__':
    main()
