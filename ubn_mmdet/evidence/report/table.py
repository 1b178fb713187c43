"""COCO metrics as a table."""

COLUMNS = {
    'AP': 'mAP',
    'AP50': 'mAP_50',
    'AP75': 'mAP_75',
    'APs': 'mAP_s',
    'APm': 'mAP_m',
    'APl': 'mAP_l',
}


def coco_table(metrics: dict[str, float]) -> str:
    """A Markdown table of ``{'coco/bbox_mAP': ...}`` as MMDetection reports it.

    One row for boxes, one for masks where there are any; COCO's -1, no such object in
    the data, is a dash.
    """
    rows = [
        f'| | {" | ".join(COLUMNS)} |',
        f'|---|{"---:|" * len(COLUMNS)}',
    ]
    for kind, title in {'bbox': 'box', 'segm': 'mask'}.items():
        values = [metrics.get(f'coco/{kind}_{key}') for key in COLUMNS.values()]
        if values[0] is not None:
            rows.append(f'| {title} | {" | ".join(map(_number, values))} |')
    return '\n'.join(rows)


def _number(value: float | None) -> str:
    return '–' if value is None or value < 0 else f'{value:.3f}'
