"""Train a detector with UBN on a small data set and report the results."""

import argparse
import sys
from pathlib import Path

from ubn_mmdet.data.coco_folder import CocoFolder, CocoFolderError
from ubn_mmdet.data.shapes import make_shapes
from ubn_mmdet.mm.toolbox import ToolboxError, require_toolbox
from ubn_mmdet.paths import configs_dir
from ubn_mmdet.records import RecordError

SHAPES = Path('data/shapes')
WORK_DIR = Path('work_dirs/demo')
CONFIG = 'demo/mask-rcnn_r18-scratch_fpn_ubn_6e_shapes.py'


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--data',
        type=Path,
        help='a COCO-format folder: train/, val/, instances_train.json, '
        f'instances_val.json (default: generated shapes in {SHAPES})',
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        help=f'where results go (default: {WORK_DIR}, and {WORK_DIR}-NAME for a folder '
        'NAME of your own)',
    )
    parser.add_argument(
        '--config',
        type=Path,
        default=configs_dir() / CONFIG,
        help='the detector (default: %(default)s)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help="settings of the config to override, key=value as in MMDetection's tools",
    )
    return parser.parse_args()


def main() -> None:
    """Run the demo; a problem with the toolbox or the data ends it with a message."""
    try:
        require_toolbox()
    except ToolboxError as error:
        sys.exit(f'demo: {error}')
    from ubn_mmdet.mm.demo import run_demo

    args = parse_args()
    work_dir = args.work_dir
    if work_dir is None:
        name = args.data and args.data.resolve().name
        work_dir = Path(f'{WORK_DIR}-{name}') if name else WORK_DIR
    try:
        folder = CocoFolder.open(args.data or make_shapes(SHAPES))
        table = run_demo(args.config, folder, work_dir, args.cfg_options)
    except (CocoFolderError, RecordError) as error:
        sys.exit(f'demo: {error}')
    print(f'\n{table}\nIn {work_dir}: results.md, curves.png, predictions.png')


if __name__ == '__main__':
    main()
