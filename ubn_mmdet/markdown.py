"""Tables in Markdown, and pages that hold tables made from data."""

import re
from collections.abc import Iterable, Mapping, Sequence

TABLE = re.compile(r'(<!-- table: (.+?) -->\n).*?(<!-- end -->)', re.DOTALL)


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[object]], words: int = 1
) -> str:
    """A Markdown table.

    Args:
        header: Names of the columns.
        rows: A cell for each column.
        words: How many columns at the left hold words; the others are aligned right.
    """
    rule = ['---'] * words + ['---:'] * (len(header) - words)
    lines = [_row(header), f'|{"|".join(rule)}|', *map(_row, rows)]
    return '\n'.join(lines)


def _row(cells: Sequence[object]) -> str:
    # A bar would end the cell, a line break the row.
    texts = (' '.join(str(cell).replace('|', r'\|').split()) for cell in cells)
    return '|' + ''.join(f' {text} |' if text else ' |' for text in texts)


def fill_tables(page: str, tables: Mapping[str, str]) -> str:
    """A page with its tables exchanged.

    Args:
        page: What lies between ``<!-- table: NAME -->`` and ``<!-- end -->`` is exchanged;
            all else is written by hand.
        tables: By name.

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

    return TABLE.sub(fill, page)
