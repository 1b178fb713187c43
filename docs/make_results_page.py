"""Make docs/results.md and its pictures from the files in docs/results/.

The folder holds results files, what is kept beside them, remarks on a file (``<name>.md``,
optional), what others published (``published.md``, optional), and which runs are wanted
(``plan.json``, optional): a list of
``{"comparison": "nuclei", "norms": ["BN", "UBN"], "seeds": [0, 1, 2], "minutes": 10}``,
where ``minutes`` is what a run takes as long as no finished one tells.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ubn_mmdet.comparison.groups import (
    ResultGroup,
    ResultsError,
    read_groups,
    slug,
    titles,
)
from ubn_mmdet.comparison.report.figure_data import later_heat_maps
from ubn_mmdet.comparison.report.markdown import HOW_TO_READ, group_markdown
from ubn_mmdet.comparison.report.numbers import MAIN
from ubn_mmdet.comparison.report.print_figures import draw
from ubn_mmdet.comparison.report.text import (
    DASH,
    interval,
    probability,
    signed,
    significant_digits,
)
from ubn_mmdet.comparison.report.write import collect
from ubn_mmdet.files import write_whole
from ubn_mmdet.markdown import markdown_table

PLAN, PUBLISHED = 'plan.json', 'published.md'
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
        say: Called with a line for each thing that is left out.

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
    numbers = {t: collect(group, baseline, say=say) for t, group in named.items()}
    parts, remarked = [], set()
    for title, group in named.items():
        pictures = draw(
            numbers[title],
            docs,
            f'results/{slug(title)}-',
            ['png'],
            without=later_heat_maps(numbers[title]),
        )
        remarks = group.source.with_suffix('.md')
        text = ''
        if remarks.is_file() and remarks not in remarked:
            remarked.add(remarks)
            text = remarks.read_text()
        parts.append(group_markdown(title, numbers[title], pictures, text))
    page = [
        HEAD,
        '## In short\n',
        _overview(numbers) + '\n',
        '## How to read it\n',
        HOW_TO_READ,
        *parts,
        *_missing(folder / PLAN, groups),
    ]
    if (folder / PUBLISHED).is_file():
        page += ['## Published figures\n', (folder / PUBLISHED).read_text()]
    write_whole(docs / 'results.md', '\n'.join(page).encode())


def _overview(numbers: Mapping[str, Mapping]) -> str:
    """The verdicts; without any, a sentence."""
    rows = [
        [
            title,
            f'{contrast["norm"]} against {contrast["baseline"]}',
            MAIN[contrast['metric']],
            contrast['verdict'],
            signed(contrast.get('difference')),
            interval(contrast.get('interval')),
            probability(contrast['holm']),
        ]
        for title, of_group in numbers.items()
        for contrast in of_group['primary']
    ]
    if not rows:
        return 'No comparison named a contrast before it was run: nothing is decided.'
    header = ['comparison', 'contrast', 'metric', 'verdict', 'difference']
    return markdown_table([*header, '95% over seeds', 'Holm'], rows, words=4)


def _missing(plan: Path, groups: Sequence[ResultGroup]) -> Iterator[str]:
    """The planned runs that have no result, and what they would take."""
    if not plan.is_file():
        return
    rows, total = [], 0.0
    for entry in json.loads(plan.read_text()):
        done, minutes = _done(entry, groups)
        for norm in entry['norms']:
            seeds = [seed for seed in entry['seeds'] if (norm, seed) not in done]
            if seeds:
                takes = None if minutes is None else minutes * len(seeds)
                total += takes or 0
                shown = (
                    DASH if takes is None else f'{significant_digits(takes)} minutes'
                )
                rows.append(
                    [entry['comparison'], norm, ', '.join(map(str, seeds)), shown]
                )
    yield '## What is missing\n'
    if not rows:
        yield 'Every planned run has a result.\n'
        return
    yield f'Planned, and not run to an end; together about {total / 60:.1f} hours.\n'
    header = ['comparison', 'norm', 'seeds', 'would take']
    yield markdown_table(header, rows, words=4) + '\n'


def _done(
    entry: Mapping, groups: Sequence[ResultGroup]
) -> tuple[set[tuple[str, int]], float | None]:
    """Norm and seed of the runs that there are, and the minutes that one takes."""
    name = entry['comparison']
    own = [g for g in groups if g.settings['comparison'] == name]
    finished = [run for group in own for run in group.runs]
    diverged = [
        run for g in own for run in g.broken if run.record['status'] == 'diverged'
    ]
    times = [t for run in finished if (t := run.number('seconds')) is not None]
    minutes = sum(times) / len(times) / 60 if times else entry.get('minutes')
    return {(run.norm, run.seed) for run in [*finished, *diverged]}, minutes


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
