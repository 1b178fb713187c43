"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


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
