"""Make docs/results.md and its pictures from the files in docs/results/.

The folder holds results files, what is kept of their predictions
(``NAME.images.json``), and two texts, both optional: the conclusions, with which the page
begins (``summary.md``), and what comes after the tables (``notes.md``). All primary
contrasts are in one figure and one table. Results in ``tuning/``, which only chose
settings, and in ``exploratory/`` are not read. The comparison with the most runs has its
curves, its errors and its condensation, if the records are where the lines say, from this
folder on. A contrast has a verdict when all planned runs have ended.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ubn_mmdet.comparison.image_scores import scores_of_runs
from ubn_mmdet.comparison.report import tables
from ubn_mmdet.comparison.report.numbers import numbers_of_all
from ubn_mmdet.comparison.report.tables import CAPTIONS, HOW_TO_READ
from ubn_mmdet.comparison.report.write import FORESTS, draw_all, write_figures
from ubn_mmdet.comparison.results import (
    ResultsError,
    read_groups,
    slugs,
    titles,
)
from ubn_mmdet.files import write_whole
from ubn_mmdet.mm.tools import ended_by

BASELINE = 'BN'  # that the other norms are compared with
HEAD = """\
# Results

`python docs/make_results_page.py` makes this page from the lines in `docs/results/` that
`tools/compare_norms.py` wrote, one per run; others are in `exploratory/`. For all, run
`python tools/report_norms.py docs/results/*.jsonl --out FOLDER`."""


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

    numbers = numbers_of_all(named, BASELINE, partial(scores_of_runs, say=say))
    drawn = draw_all(named, numbers, BASELINE)
    # The first of those with the most runs: diverged ones count.
    most = max(
        named, key=lambda t: len(named[t].runs) + len(named[t].broken), default=''
    )
    part = slugs(named).get(most, '')
    own = {f'{part}-{name}': caption for name, caption in CAPTIONS.items()}
    shown = {'contrasts': FORESTS['contrasts'], **own}
    captions = {name: caption for name, caption in shown.items() if name in drawn}
    pictures = write_figures(
        {name: drawn[name] for name in captions}, docs, 'results/', ['png']
    )
    figures = {
        name: f'![{caption}]({pictures[name]})\n\n{caption}'
        for name, caption in captions.items()
    }
    first, last = (_text(folder / name) for name in ('summary.md', 'notes.md'))
    parts = [*first]
    if any(of['primary'] for of in numbers.values()):
        parts += [
            '## What was to be decided',
            tables.primary(numbers),
            HOW_TO_READ.rstrip(),
        ]
    parts += filter(None, [figures.pop('contrasts', None)])
    for title, of in numbers.items():
        parts += [f'## {title}', *tables.notes(of), *tables.metrics(of)]
        if table := tables.against(of):
            parts += [f'Against {BASELINE}, exploratory:', table]
    page = '\n\n'.join([HEAD, *parts, *figures.values(), *last]) + '\n'
    write_whole(docs / 'results.md', page.encode())


def _text(path: Path) -> list[str]:
    return [path.read_text().rstrip()] if path.is_file() else []


def main() -> None:
    """Write the page; files that cannot be read end it with a message."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    docs = Path(__file__).parent
    with ended_by(ResultsError):
        write_results_page(docs)
    print(f'{docs / "results.md"}, pictures in {docs / "results"}')


if __name__ == '__main__':
    main()
