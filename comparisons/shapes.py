# The demo's comparison with seeds for a verdict, and the kernel alone: it needs no data but
# what tools/make_shapes.py draws.
_base_ = 'demo.py'
groups = [
    dict(norms=['BN', 'UBN'], seeds=range(5)),
    dict(norms=['BNET'], seeds=range(3)),
]
primary = [dict(norm='UBN', metric='segm_mAP')]
