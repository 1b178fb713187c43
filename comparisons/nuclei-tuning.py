# Which learning rate each norm has in the other comparisons of nuclei, and whether a larger
# start of the kernel is worth a try (docs/protocol.md).
_base_ = 'nuclei.py'
lr = 0.005


def _at(norm, lr):
    return dict(name=f'{norm}-lr-{lr}', preset=norm.lower(), lr=lr)


_norms = 'BN', 'UBN', 'BNET'
_rates = 0.04, 0.02, 0.01, 0.0025
groups = [
    dict(norms=['BN', 'UBN', 'BNET', 'UBN-fan-in', 'BNET-fan-in'], seeds=[100]),
    dict(norms=[_at(norm, r) for r in _rates for norm in _norms], seeds=[100]),
]
primary = []
