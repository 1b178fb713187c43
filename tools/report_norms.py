"""Report a comparison of norms: tables, figures, and one page that needs no network.

Reads results files of tools/compare_norms.py. Writes report.html, report.md, report.json
and figures/ (PNG and PDF) into a folder. If the runs' predictions are available, it
computes intervals over images from them, and keeps these beside the results file
(RESULTS.images.json), so that the predictions can be deleted.
"""

import sys
from pathlib import Path

from ubn_mmdet.comparison.report.write import write_report
from ubn_mmdet.comparison.results import ResultsError
from ubn_mmdet.mm.tools import ended_by, tool_parser


def main() -> None:
    """Write the report; results that cannot be read end it with a message."""
    parser = tool_parser(__doc__)
    add = parser.add_argument
    add('results', nargs='+', type=Path, help='results files, .jsonl')
    add('--out', type=Path, required=True, help='the folder to write to')
    add('--baseline', default='BN', help='what the others are compared with (BN)')
    add(
        '--annotations',
        type=Path,
        help='the COCO annotations of the validation images, if the results do not lead '
        'to them',
    )
    add('--work-dir', type=Path, help='of the comparison, if the results are elsewhere')
    args = parser.parse_args()
    if args.annotations and not args.annotations.is_file():
        sys.exit(f'report_norms: there is no file {args.annotations}')
    with ended_by(ResultsError):
        write_report(
            args.results, args.out, args.baseline, args.annotations, args.work_dir
        )
    print(f'In {args.out}: report.html, report.md, report.json, figures/')


if __name__ == '__main__':
    main()
