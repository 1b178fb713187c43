"""Evaluate a trained detector with running, precise and batch statistics.

Running statistics are averages over the last steps of training: about ten if momentum is
0.1. With few images per step they are noisy, and so is the AP with them. Precise statistics
are averages over --batches batches of training images with the final weights. Batch
statistics are those of each batch of validation images, as in training.

The table has AP with each of them, for all norm layers and by component (backbone, neck,
heads), with and without the padding of batches. Nothing is trained: only the statistics
differ.
"""

from pathlib import Path

from ubn_mmdet.mm.toolbox import ToolboxError, require_toolbox
from ubn_mmdet.mm.tools import add_cfg_options, ended_by, tool_parser


def main() -> None:
    """Print each evaluation as it comes, and a table of all."""
    parser = tool_parser(__doc__)
    add = parser.add_argument
    add('config', help="the detector's config; each run of a comparison has one")
    add('checkpoint', help="the detector's weights")
    add('--batches', type=int, default=40, help='of precise statistics (%(default)s)')
    add('--batch-size', type=int, default=8, help='images in a batch (%(default)s)')
    add(
        '--statistics',
        nargs='+',
        default=['running', 'precise', 'batch'],
        help='which to evaluate with (running precise batch)',
    )
    add(
        '--padding',
        nargs='+',
        default=['counted', 'left-out'],
        help='count the padding of batches or leave it out (counted left-out)',
    )
    add('--out', type=Path, help='results to resume (CHECKPOINT.norm_gap.json)')
    add('--save-precise', type=Path, help='a file for weights with precise statistics')
    add_cfg_options(parser)
    args = parser.parse_args()
    out = args.out or Path(f'{args.checkpoint}.norm_gap.json')
    gaps = {}
    with ended_by(OSError, ToolboxError, TypeError, ValueError):
        require_toolbox()
        from ubn_mmdet.mm.norm_gap import gap_table, norm_gap

        for row, metrics in norm_gap(
            args.config,
            args.checkpoint,
            out,
            args.batches,
            args.batch_size,
            args.statistics,
            args.padding,
            args.cfg_options,
            args.save_precise,
        ):
            gaps[row] = metrics
            print(f'norm_gap: {", ".join(row)} is evaluated', flush=True)
    print(f'\nBatches of {args.batch_size} images; {out} has all metrics.\n')
    print(gap_table(gaps))


if __name__ == '__main__':
    main()
