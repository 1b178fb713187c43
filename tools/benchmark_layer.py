"""Time UBN beside BatchNorm: layers at the shapes of detectors, and whole detectors.

Writes OUT.json after every case, and OUT.md and OUT.png at the end; an interrupted run
goes on where it was. The parts of the measurement can be run one at a time.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import torch

from ubn_mmdet.bench import layers as benchmark
from ubn_mmdet.bench.growth import draw_growth
from ubn_mmdet.bench.machine import describe_machine, describe_passes
from ubn_mmdet.bench.operations import SHAPE, count_operations, family
from ubn_mmdet.bench.results import Results
from ubn_mmdet.bench.tables import report
from ubn_mmdet.comparison.code_copy import describe_code
from ubn_mmdet.files import write_whole
from ubn_mmdet.paths import configs_dir
from ubn_mmdet.records import RecordError

PARTS = ('layers', 'compiled', 'memory', 'operations', 'growth', 'detectors')
PROFILED = 'layer3'
DETECTORS = {
    'Mask R-CNN R18, demo': (
        'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py',
        (160, 160),
        8,
    ),
    'Mask R-CNN R50': ('finetune/mask-rcnn_r50-live_fpn_bn_1x_coco.py', (320, 512), 2),
}


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmark/layer'))
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS)
    parser.add_argument(
        '--repeats', type=int, default=15, help='turns of each layer (%(default)s)'
    )
    parser.add_argument(
        '--steps', type=int, default=12, help='turns of each detector (%(default)s)'
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
    device = args.device
    try:
        results = Results(
            args.out.with_suffix('.json'),
            describe_machine(device)
            | {'ubn_mmdet': describe_code(), 'passes': describe_passes(device)},
        )
    except RecordError as error:
        sys.exit(f'benchmark_layer: {error}')
    if 'layers' in args.parts:
        for name, shape in (benchmark.R50_FPN | benchmark.DEMO).items():
            for mode in benchmark.MODES:
                print(f'{mode}: {name} {shape}', flush=True)
                results.case(
                    mode,
                    f'{name} {shape}',
                    partial(benchmark.time_layers, shape, mode, device, args.repeats),
                )
    if 'compiled' in args.parts:
        for name in benchmark.SMALL:
            shape = (benchmark.R50_FPN | benchmark.DEMO)[name]
            print(f'compiled: {name} {shape}', flush=True)
            results.case(
                'compiled',
                f'{name} {shape}',
                partial(benchmark.time_compiled, shape, device, args.repeats),
            )
            results.case(
                'first call',
                f'{name} {shape}',
                partial(benchmark.first_calls, shape, device),
            )
    if 'memory' in args.parts:
        for name, shape in benchmark.DEMO.items():
            results.case(
                'saved bytes',
                f'{name} {shape}',
                partial(benchmark.saved_bytes, shape, device),
            )
    if 'operations' in args.parts:
        results.case(
            'operations dispatched',
            str(SHAPE),
            partial(count_operations, family()),
        )
        profiled = benchmark.R50_FPN[PROFILED]
        for mode in ('forward + backward', 'evaluation'):
            results.case(
                'operations',
                f'{mode}, {profiled}',
                partial(
                    benchmark.profile_operations, profiled, mode, device, args.repeats
                ),
            )
    if 'growth' in args.parts:
        for direction, shapes in benchmark.growth_shapes().items():
            for grown in shapes:
                print(f'growth over {direction}: {grown}', flush=True)
                results.case(
                    f'growth over {direction}',
                    'x'.join(map(str, grown)),
                    partial(
                        benchmark.time_layers,
                        grown,
                        'forward + backward',
                        device,
                        args.repeats,
                    ),
                )
    if 'detectors' in args.parts:
        from ubn_mmdet.mm.training_step import time_training_steps

        for name, (config, size, images) in DETECTORS.items():
            print(f'training step: {name}, {images} images of {size}', flush=True)
            results.case(
                'training step',
                f'{name}, {images} images of {size[0]}x{size[1]}',
                partial(
                    time_training_steps,
                    configs_dir() / config,
                    size,
                    images,
                    device,
                    args.steps,
                ),
            )
    text = report(results.content)
    write_whole(args.out.with_suffix('.md'), text.encode())
    if 'growth over N' in results.content:
        draw_growth(results.content, args.out.with_suffix('.png'))
    print(text)


if __name__ == '__main__':
    main()
