"""Fill the tables of the pages in docs/ from what the benchmarks wrote.

The results are in docs/performance/ and docs/sweep.jsonl. What is between
``<!-- table: FILE, TITLE -->`` and ``<!-- end -->`` in a page is replaced by the table of
that title from the results in FILE. Everything else is written by hand.

    python -m benchmarks.fill_pages
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from ubn_mmdet.files import write_whole

from . import detectors, inference, layers, ranks
from .reporting import ROOT, describe, read_results
from .sweep import verdict

PAGES = 'performance.md', 'distributed.md', 'deploy.md', 'compatibility.md'
BENCHMARKS = {
    'layers': layers.tables,
    'detectors': detectors.tables,
    'inference': inference.tables,
    'ranks': ranks.tables,
}
PLACE = re.compile(r'(<!-- table: (.+?) -->\n).*?(<!-- end -->)', re.DOTALL)


def page_tables(docs: Path) -> dict[str, str]:
    """The tables that the results below ``docs`` give, by ``'FILE, TITLE'``."""
    named: dict[str, str] = {}
    for path in sorted((docs / 'performance').glob('*.jsonl')):
        record, rows = read_results(path)
        titled = {'machine': describe(record), **BENCHMARKS[path.stem](rows)}
        named |= {f'{path.stem}, {title}': table for title, table in titled.items()}
    record, rows = read_results(docs / 'sweep.jsonl')
    titled = verdict.tables(record, rows['detectors'])
    return named | {f'sweep, {title}': table for title, table in titled.items()}


def fill_tables(page: str, tables: Mapping[str, str]) -> str:
    """A page with its tables exchanged.

    Raises:
        KeyError: If the page asks for a table that there is not.
    """

    def fill(place: re.Match) -> str:
        opening, name, end = place.groups()
        if name not in tables:
            raise KeyError(
                f'no table {name!r}; there are {", ".join(map(repr, tables))}'
            )
        return f'{opening}\n{tables[name]}\n\n{end}'

    return PLACE.sub(fill, page)


def main() -> None:
    """Fill all of ``PAGES``."""
    argparse.ArgumentParser(
        prog='python -m benchmarks.fill_pages',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    tables = page_tables(ROOT / 'docs')
    for name in PAGES:
        page = ROOT / 'docs' / name
        write_whole(page, fill_tables(page.read_text(), tables).encode())


if __name__ == '__main__':
    main()
