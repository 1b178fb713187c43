# The demo's comparison with seeds for a verdict, and the kernel alone: it needs no data but
# what tools/make_shapes.py draws.
_base_ = 'demo.py'
groups = [dict(norms=['BN', 'UBN', 'BNET'], seeds=range(3))]
