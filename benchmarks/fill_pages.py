"""Fill the tables of the pages in docs/ from what the benchmarks wrote.

The results are in docs/performance/ and docs/sweep.jsonl. What is between
``<!-- table: FILE, TITLE -->`` and ``<!-- end -->`` in a page is replaced by the table of
that title from the results in FILE. Everything else is written by hand.

    python -m benchmarks.fill_pages
"""

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from ubn_mmdet.files import write_whole

from . import sweep
from .reporting import ROOT, describe, read_results

PAGES = 'performance.md', 'distributed.md', 'deploy.md', 'compatibility.md'
PLACE = re.compile(r'(<!-- table: (.+?) -->\n).*?(<!-- end -->)', re.DOTALL)


def page_tables(docs: Path) -> dict[str, str]:
    """The tables that the results below ``docs`` give, by ``'FILE, TITLE'``."""
    record, rows = read_results(docs / 'sweep.jsonl')
    found = {'sweep': sweep.tables(record, rows['detectors'])}
    for path in (docs / 'performance').glob('*.jsonl'):
        record, rows = read_results(path)
        benchmark = import_module(f'benchmarks.{path.stem}')
        found[path.stem] = {'machine': describe(record), **benchmark.tables(rows)}
    return {
        f'{file}, {title}': table
        for file, titled in found.items()
        for title, table in titled.items()
    }


def fill_tables(page: str, tables: Mapping[str, str]) -> str:
    """A page with its tables exchanged.

    Raises:
        KeyError: If the page asks for a table that there is not.
    """

    def fill(place: re.Match) -> str:
        opening, name, end = place.groups()
        if name not in tables:
            raise KeyError(f'no table {name!r}; there are {", ".join(tables)}')
        return f'{opening}\n{tables[name]}\n\n{end}'

    return PLACE.sub(fill, page)


if __name__ == '__main__':
    made = page_tables(ROOT / 'docs')
    for name in PAGES:
        page = ROOT / 'docs' / name
        write_whole(page, fill_tables(page.read_text(), made).encode())
