# The demo's comparison with enough seeds for a verdict, and the kernel without UBN's other
# stages. It needs only the images that tools/make_shapes.py draws.
_base_ = 'demo.py'
groups = [
    dict(norms=['BN', 'UBN'], seeds=range(5)),
    dict(norms=['BNET'], seeds=range(3)),
]
primary = [dict(norm='UBN', metric='segm_mAP')]
