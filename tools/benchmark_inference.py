"""Time detectors with UBN beside BatchNorm's, as trained and folded for deployment.

Writes OUT.json after every case, and OUT.md at the end; an interrupted run goes on where
it was.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import torch

from ubn_mmdet.bench.machine import describe_machine
from ubn_mmdet.bench.results import Results
from ubn_mmdet.bench.tables import inference_tables
from ubn_mmdet.comparison.code_copy import describe_code
from ubn_mmdet.files import write_whole
from ubn_mmdet.mm.toolbox import require_toolbox
from ubn_mmdet.paths import configs_dir
from ubn_mmdet.records import RecordError

DETECTORS = {
    'Mask R-CNN R18, demo': 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py',
    'RetinaNet R18, demo': 'demo/retinanet_r18-scratch_fpn_bn_6e_shapes.py',
}


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/benchmark/inference')
    )
    parser.add_argument(
        '--size', type=int, default=320, help='side of the image, pixels (%(default)s)'
    )
    parser.add_argument(
        '--repeats', type=int, default=30, help='turns of each (%(default)s)'
    )
    parser.add_argument(
        '--device',
        type=torch.device,
        default='cuda' if torch.cuda.is_available() else 'cpu',
    )
    return parser.parse_args()


def main() -> None:
    """Measure what is missing, then report all."""
    args = parse_args()
    require_toolbox()
    from ubn_mmdet.mm.inference import time_inference

    try:
        results = Results(
            args.out.with_suffix('.json'),
            describe_machine(args.device) | {'ubn_mmdet': describe_code()},
        )
    except RecordError as error:
        sys.exit(f'benchmark_inference: {error}')
    size = args.size, args.size
    for name, config in DETECTORS.items():
        print(f'inference: {name}, one image of {size}', flush=True)
        results.case(
            'inference',
            f'{name}, one image of {args.size}x{args.size}',
            partial(
                time_inference, configs_dir() / config, size, args.device, args.repeats
            ),
        )
    parts = inference_tables(results.content)
    report = '\n\n'.join(parts.values()) + '\n'
    write_whole(args.out.with_suffix('.md'), report.encode())
    print(report)


if __name__ == '__main__':
    main()
