"""The COCO metrics as a Markdown table."""

from collections.abc import Mapping

from ...markdown import markdown_table

COLUMNS = {
    'AP': 'mAP',
    'AP50': 'mAP_50',
    'AP75': 'mAP_75',
    'APs': 'mAP_s',
    'APm': 'mAP_m',
    'APl': 'mAP_l',
}


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
