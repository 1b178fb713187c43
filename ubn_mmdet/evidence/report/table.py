"""Markdown tables, and the COCO metrics as one."""

from collections.abc import Iterable, Sequence

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


def coco_table(metrics: dict[str, float]) -> str:
    """A Markdown table of ``{'coco/bbox_mAP': ...}`` as MMDetection reports it.

    One row for boxes, one for masks where there are any; COCO's -1, no such object in
    the data, is a dash.
    """
    rows = []
    for kind, title in {'bbox': 'box', 'segm': 'mask'}.items():
        values = [metrics.get(f'coco/{kind}_{key}') for key in COLUMNS.values()]
        if values[0] is not None:
            rows.append([title, *map(_number, values)])
    return markdown_table(['', *COLUMNS], rows)


def _number(value: float | None) -> str:
    return '–' if value is None or value < 0 else f'{value:.3f}'
