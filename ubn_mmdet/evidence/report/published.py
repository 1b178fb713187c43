"""Detection figures that authors of other norms published, for a table of their own."""

from ...markdown import markdown_table

# Method, its paper, setting, BatchNorm, method: COCO box AP / mask AP.
_BNET, _MABN = 'arXiv 2011.14150', 'ICLR 2020'
_FROM_SCRATCH = 'Mask R-CNN R50 2x from scratch, 2 images a GPU'
ROWS = (
    ('BNET-3', _BNET, 'Faster R-CNN R50 1x', '37.5', '39.5'),
    ('BNET-3', _BNET, 'Mask R-CNN R50 1x', '38.2 / 34.7', '40.2 / 36.4'),
    ('BNET-3', _BNET, 'Mask R-CNN R101 1x', '40.0 / 36.1', '42.2 / 37.8'),
    ('BNET-5', _BNET, 'RetinaNet R101 1x', '38.5', '40.7'),
    (
        *('MABN', _MABN, _FROM_SCRATCH),
        *('32.4 / 29.1; SyncBN, 2×8 images: 36.8 / 33.1', '36.5 / 32.7'),
    ),
    (
        *('Batch Renorm', 'arXiv 1702.03275', _FROM_SCRATCH),
        *('32.4 / 29.1; SyncBN, 2×8 images: 36.8 / 33.1', '34.1 / 31.0'),
    ),
    (
        *('Attentive Norm', 'arXiv 1908.01259', 'Mask R-CNN R50 2x, 4conv1fc'),
        *('39.2 / 35.2', '40.8 / 36.4'),
    ),
    (
        *('Switchable Norm', 'arXiv 1806.10779', 'Mask R-CNN R50 2x'),
        *('38.6 / 34.5; GN: 40.4 / 35.6', '41.0 / 36.1'),
    ),
    (
        *('CBN (heads and FPN)', 'arXiv 2002.05712', 'Mask R-CNN R50 1x, 4conv1fc'),
        *('37.6 / 34.0; SyncBN: 38.5 / 34.3; GN: 38.5 / 35.0', '38.4 / 34.7'),
    ),
    (
        *('BGN', 'arXiv 2012.02782', 'ImageNet R50, batch 2: top-1'),
        *('66.512', '76.096'),
    ),
)  # fmt: skip


def published_markdown() -> str:
    """The table, and what has to be said of it."""
    header = ['method', 'its paper', 'setting', 'BatchNorm', 'the method']
    return '\n\n'.join(
        [
            'COCO box AP / mask AP in percent as published, on data and schedules of full '
            'size. None of it was measured here, and none of it compares with the tables '
            'above.',
            markdown_table(header, ROWS, words=3),
            "BNET's BatchNorm figures are those of the toolbox's stock models, which its "
            'authors did not train again. For UBN no table of its authors was at hand.',
        ]
    )
