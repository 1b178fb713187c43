"""MMDetection's own detectors with UBN in place of BatchNorm, compared.

Takes one config of each folder that the installed MMDetection ships, swaps every BatchNorm
and SyncBN, loads the BatchNorm model's random weights, and compares a training step and
the predictions of both on random images on the CPU. Nothing is downloaded. Each finished
detector is one json line in --out; the same command goes on after an interruption.
--page writes the table of what is in --out into a Markdown page.
"""

import argparse
import sys
from pathlib import Path

from ubn_mmdet.mm.toolbox import ToolboxError, require_toolbox

OUT = Path('docs/sweep.jsonl')


def parse_args() -> argparse.Namespace:
    """The command line; --help tells."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--out', type=Path, default=OUT, help='the results (default: %(default)s)'
    )
    parser.add_argument(
        '--only', nargs='+', metavar='FOLDER', help='these folders of configs alone'
    )
    parser.add_argument(
        '--again',
        action='store_true',
        help='those that could not be swept or differ are done once more',
    )
    parser.add_argument('--norm', default='UBN', help='type of the norm layer')
    parser.add_argument(
        '--minutes', type=float, default=15, help='given to a detector, at most'
    )
    parser.add_argument(
        '--page', type=Path, help='write the table into this page, and do nothing else'
    )
    return parser.parse_args()


def main() -> int:
    """Sweep, or write the page; 1 if a detector differs."""
    args = parse_args()
    if args.page:
        from ubn_mmdet.mm.sweep.table import write_table

        write_table(args.out, args.page)
        return 0
    try:
        require_toolbox()
    except ToolboxError as error:
        print(error, file=sys.stderr)
        return 1
    from ubn_mmdet.mm.sweep.run import sweep

    return sweep(args.out, args.norm, args.only, args.again, args.minutes * 60)


if __name__ == '__main__':
    sys.exit(main())
