"""How many operations a layer dispatches: no more than these, whatever else changes."""

import pytest
import torch

from ubn_mmdet import UBN, reference_passes
from ubn_mmdet.bench.operations import (
    PHASES,
    Operations,
    count_operations,
    family,
    operations,
)

# At most so many forward and backward in training, and in evaluation.
BOUNDS = {
    'BatchNorm': (3, 1, 2),
    'BatchNorm + depthwise 3x3': (4, 2, 3),
    'UBN k=1': (39, 38, 10),
    'UBN k=3': (42, 41, 13),
    'UBN k=1, pooled': (40, 38, 10),
    'UBN k=1, no gate': (23, 37, 10),
    'RBN': (23, 37, 10),
    'BNET': (18, 15, 4),
    'InitBN': (15, 14, 1),
    'IEBN': (29, 50, 16),
    'BGN': (33, 55, 18),
    'BatchRenorm': (59, 45, 14),
    'MABN': (55, 48, 14),
    'PowerNorm': (35, 51, 14),
}
# Of a channels_last input, of which PyTorch's BatchNorm kernels take no map as a channel.
LAST = {'UBN k=1': (42, 44, 13), 'UBN k=3': (46, 51, 17), 'BNET': (18, 15, 4)}


def test_every_layer_has_a_bound():
    assert BOUNDS.keys() == family().keys()


@pytest.mark.parametrize('name', BOUNDS)
def test_no_layer_dispatches_more_than(name):
    layer = family()[name]
    counts = count_operations({name: layer})[name]
    found = operations(layer)
    for phase, bound in zip(PHASES, BOUNDS[name], strict=True):
        assert counts[phase] <= bound, found[phase]


@pytest.mark.parametrize('name', LAST)
def test_no_layer_dispatches_more_for_channels_last_than(name):
    found = operations(family()[name], memory_format=torch.channels_last)
    for phase, bound in zip(PHASES, LAST[name], strict=True):
        assert len(found[phase]) <= bound, found[phase]


def test_counts_are_of_what_is_no_view():
    x = torch.zeros(2, 3)
    with Operations() as noted:
        x.view(6).add_(1)
        x.t().sum()
    assert noted.names == ['add_.Tensor', 'sum.default']


def test_the_count_grows_where_the_stages_run_one_by_one():
    closed = count_operations({'UBN': UBN(64)})['UBN']
    with reference_passes():
        plain = count_operations({'UBN': UBN(64)})['UBN']
    assert all(plain[phase] > closed[phase] for phase in PHASES)
