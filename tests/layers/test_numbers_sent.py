"""What a rank sends in a training step: the table of docs/distributed.md."""

import pytest
import torch
import torch.distributed as dist

from ubn_mmdet import UBN

C = 8
# Numbers forward, numbers backward.
SENT = {'flat': ([2 * C + 3], [2 * C]), 'pooled': ([3 * C + 3], [2 * C])}


def numbers_sent(feature):
    sent, all_reduce = [], dist.all_reduce

    def counted(tensor, **options):
        sent.append(tensor.numel())
        return all_reduce(tensor, **options)

    dist.all_reduce = counted
    try:
        y = UBN(C, condensation_feature=feature)(torch.randn(2, C, 4, 4))
        forward = sent.copy()
        y.square().sum().backward()
    finally:
        dist.all_reduce = all_reduce
    return forward, sent[len(forward) :]


@pytest.mark.slow
@pytest.mark.parametrize('feature', SENT)
def test_a_layer_sends_one_message_each_way(two_ranks, feature):
    assert two_ranks.run(numbers_sent, [feature] * 2) == [SENT[feature]] * 2
