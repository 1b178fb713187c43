"""Gates of ranks that do not merge their statistics close together."""

from types import SimpleNamespace

import torch
from torch import nn

from ubn_mmdet import UBN
from ubn_mmdet.mm.hooks import MergeGatesHook


def steps(cosine: float) -> dict:
    """Thirty steps of one rank, whose two samples always have that cosine."""
    model = nn.Sequential(UBN(1, sync=False, dtype=torch.float64), UBN(1))
    hook = MergeGatesHook()
    hook.before_train(runner := SimpleNamespace(model=model))
    model.train()
    x = torch.tensor([[1, 0], [cosine, (1 - cosine**2) ** 0.5]], dtype=torch.float64)
    seen = []
    for _ in range(30):
        model[0](x.view(2, 1, 1, 2))
        hook.after_train_iter(runner)
        seen.append((model[0].condensation.item(), bool(model[0].gate_is_open)))
    return {'seen': seen, 'merged': model[1].condensation.item()}


def test_the_average_over_ranks_decides(two_ranks):
    # Alone, the first gate would close, for good, and the second one stay open.
    first, second = two_ranks.run(steps, [0.0, 0.2])
    assert first == second
    m = 1.0
    for found, is_open in first['seen']:
        m = 0.9 * m + 0.1 * (0.0 + 0.2) / 2
        assert abs(found - m) < 1e-12 and is_open == (m > 0.15)
    assert not first['seen'][-1][1]


def test_one_process_has_nothing_to_merge():
    alone = steps(0.2)['seen']
    assert all(is_open for _, is_open in alone)
