# As nuclei-tuning.py, for bccd.py.
_base_ = 'bccd.py'
options = {'optim_wrapper.optimizer.lr': 0.02}


def _at(norm, rate):
    return dict(
        name=f'{norm}-lr-{rate}',
        preset=norm.lower(),
        options={'optim_wrapper.optimizer.lr': rate},
    )


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
