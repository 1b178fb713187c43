"""Report a comparison of norms: tables, figures, and one page that needs no network.

Reads results files of tools/compare_norms.py, and writes into a folder report.md,
report.json, report.html, and figures/ for print. From the runs' predictions, where they
are available, it computes intervals over images, and keeps them beside the results file
(RESULTS.images.json) for when they are not.
"""

import argparse
import sys
from pathlib import Path

from ubn_mmdet.comparison.groups import ResultsError
from ubn_mmdet.comparison.report.write import write_report


def parse_args() -> argparse.Namespace:
    """The command line; --help tells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('results', nargs='+', type=Path, help='results files, .jsonl')
    parser.add_argument(
        '--out', type=Path, required=True, help='the folder to write to'
    )
    parser.add_argument(
        '--baseline',
        default='BN',
        help='the norm that the others are compared with (%(default)s)',
    )
    parser.add_argument(
        '--annotations',
        type=Path,
        help='the COCO instances file of the validation images, if the results do not '
        'lead to it',
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='the work folder of the comparison, if the results file is not in it',
    )
    return parser.parse_args()


def main() -> None:
    """Write the report; results that cannot be read end it with a message."""
    args = parse_args()
    if args.annotations and not args.annotations.is_file():
        sys.exit(f'report_norms: there is no file {args.annotations}')
    try:
        write_report(
            args.results, args.out, args.baseline, args.annotations, args.work_dir
        )
    except ResultsError as error:
        sys.exit(f'report_norms: {error}')
    print(f'In {args.out}: report.html, report.md, report.json, figures/')


if __name__ == '__main__':
    main()
