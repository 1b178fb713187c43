# As nuclei-tuning.py, for bccd.py.
_base_ = 'bccd.py'
lr = 0.02


def _at(norm, lr):
    return dict(name=f'{norm}-lr-{lr}', preset=norm.lower(), lr=lr)


_norms = 'BN', 'UBN', 'BNET'
_rates = 0.08, 0.04, 0.01
groups = [
    dict(norms=['BN', 'UBN', 'BNET', 'UBN-fan-in', 'BNET-fan-in'], seeds=[100]),
    dict(
        norms=[_at(norm, r) for r in _rates for norm in _norms] + [_at('BNET', 0.16)],
        seeds=[100],
    ),
]
primary = []
