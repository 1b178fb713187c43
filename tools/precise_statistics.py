"""Evaluate a trained detector with its running statistics, and with precise ones.

Running statistics are averages over the last steps of training, about ten where momentum is
0.1. With few images a step they are rough, and so is what a detector scores with them.
Precise ones are averages over --batches of training images, all seen by the final weights.
What the second column has above the first was lost to statistics, not to training.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from ubn_mmdet.mm.toolbox import ToolboxError, require_toolbox
from ubn_mmdet.mm.tools import add_cfg_options


def parse_args() -> argparse.Namespace:
    """The command line; --help tells."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='of the detector; a run of a comparison has one')
    parser.add_argument('checkpoint', help='its weights')
    parser.add_argument(
        '--batches', type=int, default=40, help='to average over (%(default)s)'
    )
    parser.add_argument(
        '--batch-size', type=int, default=8, help='images of each (%(default)s)'
    )
    parser.add_argument(
        '--out', type=Path, help='write the weights with precise statistics there'
    )
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    """Print both evaluations."""
    args = parse_args()
    try:
        require_toolbox()
        from ubn_mmdet.mm.precise import evaluate_precise

        with TemporaryDirectory() as logs:
            metrics = evaluate_precise(
                args.config,
                args.checkpoint,
                logs,
                args.batches,
                args.batch_size,
                args.out,
                args.cfg_options,
            )
    except (OSError, ToolboxError, ValueError) as error:
        sys.exit(f'precise_statistics: {error}')
    print(f'{"":24} as it is  precise')
    for name, (before, after) in metrics.items():
        print(f'{name:24} {before:8.3f} {after:8.3f}')


if __name__ == '__main__':
    main()
