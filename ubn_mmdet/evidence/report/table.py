"""Markdown tables, and the COCO metrics as one."""

from collections.abc import Iterable, Mapping, Sequence

COLUMNS = {
    'AP': 'mAP',
    'AP50': 'mAP_50',
    'AP75': 'mAP_75',
    'APs': 'mAP_s',
    'APm': 'mAP_m',
    'APl': 'mAP_l',
}


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


def coco_table(results: Mapping[str, Mapping]) -> str:
    """A Markdown table of ``{norm: {'bbox_mAP': ..., 'segm_mAP': ...}}``.

    The norms' boxes one below the other, then their masks where there are any; COCO's -1,
    no such object in the data, is a dash.
    """
    rows = [
        [title, norm, *(_number(result.get(f'{kind}_{c}')) for c in COLUMNS.values())]
        for kind, title in {'bbox': 'box', 'segm': 'mask'}.items()
        for norm, result in results.items()
        if f'{kind}_mAP' in result
    ]
    return markdown_table(['', 'norm', *COLUMNS], rows, words=2)


def _number(value: float | None) -> str:
    return '–' if value is None or value < 0 else f'{value:.3f}'
