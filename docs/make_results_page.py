"""Make docs/results.md and its pictures from the files in docs/results/.

The folder holds results files, what is kept of their predictions (``NAME.images.json``),
conclusions (``summary.md``, optional), remarks on a file (``NAME.md``, optional), and what
others published (``published.md``, optional). Condensation is drawn of the runs whose
records are where their lines say, from this folder on.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ubn_mmdet.comparison.groups import ResultsError, read_groups, titles
from ubn_mmdet.comparison.images import images_of
from ubn_mmdet.comparison.report.numbers import numbers_of
from ubn_mmdet.comparison.report.tables import HOW_TO_READ
from ubn_mmdet.comparison.report.write import draw_all, overview, parts, write_figures
from ubn_mmdet.files import write_whole

HEAD = """\
# Results

Made by `python docs/make_results_page.py` from the files in `docs/results/`: one line a
run as `tools/compare_norms.py` writes it, and what `tools/report_norms.py` keeps of the
predictions. `python tools/report_norms.py docs/results/*.jsonl --out FOLDER` makes a page
of the same with tables that sort and figures that answer to the pointer.
"""


def write_results_page(
    docs: str | os.PathLike,
    baseline: str = 'BN',
    say: Callable[[str], None] = print,
) -> None:
    """Write ``docs/results.md`` and its pictures in ``docs/results/``.

    Args:
        docs: The folder of the documentation.
        baseline: The norm that the others are compared with.
        say: Called with a line before each long step.

    Raises:
        ResultsError: If there is no results file, or one cannot be read.
    """
    docs = Path(docs)
    folder = docs / 'results'
    files = sorted(folder.glob('*.jsonl'))
    if not files:
        raise ResultsError(f'there is no results file in {folder}')
    groups = read_groups(files)
    named = dict(zip(titles(groups), groups, strict=True))
    numbers = {
        title: numbers_of(group, baseline, *images_of(group, say=say))
        for title, group in named.items()
    }
    drawn = draw_all(named, numbers, baseline)
    pictures = write_figures(drawn, docs, 'results/', ['png'])
    # Of several groups of one file the first has the remarks.
    of_files = {g.source: title for title, g in reversed(named.items())}
    remarks = {
        title: _text_of(source.with_suffix('.md')) for source, title in of_files.items()
    }
    page = [
        *(HEAD, _text_of(folder / 'summary.md'), *overview(numbers, pictures)),
        *('## How to read it\n', HOW_TO_READ, *parts(numbers, pictures, remarks)),
    ]
    if published := _text_of(folder / 'published.md'):
        page += ['## Published figures\n', published]
    write_whole(docs / 'results.md', '\n'.join(filter(None, page)).encode())


def _text_of(path: Path) -> str:
    return path.read_text() if path.is_file() else ''


def parse_args() -> argparse.Namespace:
    """The command line; --help tells."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
