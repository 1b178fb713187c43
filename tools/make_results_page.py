"""Make docs/results.md and its pictures from the files in docs/results/."""

import argparse
import sys
from pathlib import Path

from ubn_mmdet.evidence.groups import ResultsError
from ubn_mmdet.evidence.report.results_page import write_results_page


def parse_args() -> argparse.Namespace:
    """The command line; --help tells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--docs', type=Path, default=Path('docs'), help='(%(default)s)')
    parser.add_argument(
        '--baseline',
        default='BN',
        help='the norm that the others are compared with (%(default)s)',
    )
    return parser.parse_args()


def main() -> None:
    """Write the page; files that cannot be read end it with a message."""
    args = parse_args()
    try:
        write_results_page(args.docs, args.baseline)
    except ResultsError as error:
        sys.exit(f'make_results_page: {error}')
    print(f'{args.docs / "results.md"}, pictures in {args.docs / "results"}')


if __name__ == '__main__':
    main()
