"""Make docs/results.md and its pictures from the files in docs/results/.

The folder holds results files, what is kept of their predictions
(``NAME.images.json``), and the conclusions (``summary.md``, optional). Every comparison is
in the forest plot; those in ``tuning/``, which only chose settings, are not on the page.
Comparisons that named primary contrasts have their tables, and the first of them its
curves, its errors and its condensation, if the records are where the lines say, from this
folder on.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from ubn_mmdet.comparison.images import images_of
from ubn_mmdet.comparison.report import tables
from ubn_mmdet.comparison.report.numbers import numbers_of_all
from ubn_mmdet.comparison.report.tables import CAPTIONS
from ubn_mmdet.comparison.report.write import FOREST, draw_all, write_figures
from ubn_mmdet.comparison.results import ResultsError, read_groups, slug, titles
from ubn_mmdet.files import write_whole
from ubn_mmdet.mm.tools import ended_by

BASELINE = 'BN'  # that the other norms are compared with
HEAD = """\
# Results

Made by `python docs/make_results_page.py` from the files in `docs/results/`: one line a
run as `tools/compare_norms.py` writes it, and what `tools/report_norms.py` keeps of the
predictions. `python tools/report_norms.py docs/results/*.jsonl --out FOLDER` makes a page
with all norms, all curves, costs and settings, and says how to read it.
"""


def write_results_page(docs: Path, say: Callable[[str], None] = print) -> None:
    """Write ``results.md`` and its pictures in ``results/``, both in ``docs``.

    Args:
        docs: The folder of the documentation.
        say: Called with a line before each long step.

    Raises:
        ResultsError: If a results file cannot be read.
    """
    folder = docs / 'results'
    groups = read_groups(sorted(folder.glob('*.jsonl')))
    named = dict(zip(titles(groups), groups, strict=True))
    numbers = numbers_of_all(named, BASELINE, lambda group: images_of(group, say=say))
    decided = {t: of for t, of in numbers.items() if of['primary']}
    drawn = draw_all(named, numbers, BASELINE)
    first = slug(next(iter(decided), ''))
    shown = {'differences': FOREST} | {f'{first}-{c}': CAPTIONS[c] for c in CAPTIONS}
    captions = {name: caption for name, caption in shown.items() if name in drawn}
    pictures = write_figures(
        {name: drawn[name] for name in captions}, docs, 'results/', ['png']
    )
    images = [
        f'![{caption}]({pictures[name]})\n\n{caption}\n'
        for name, caption in captions.items()
    ]
    parts = [
        '\n\n'.join([f'## {title}', tables.primary(of), *tables.metrics(of)]) + '\n'
        for title, of in decided.items()
    ]
    summary = folder / 'summary.md'
    said = [summary.read_text()] if summary.is_file() else []
    page = [HEAD, *said, *images[:1], *parts, *images[1:]]
    write_whole(docs / 'results.md', '\n'.join(page).encode())


def main() -> None:
    """Write the page; files that cannot be read end it with a message."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    docs = Path(__file__).parent
    with ended_by(ResultsError):
        write_results_page(docs)
    print(f'{docs / "results.md"}, pictures in {docs / "results"}')


if __name__ == '__main__':
    main()
