"""The model of what synchronisation costs."""

import json

import pytest
import torch
import torch.distributed as dist
from helpers.commands import ROOT, run
from helpers.ranks import Ranks
from ubn_mmdet.ops.distributed import merge_statistics

from ubn_mmdet import UBN
from ubn_mmdet.bench import sync_cost
from ubn_mmdet.bench.sync_cost import Network

NETWORK = Network(latency=1.0, bandwidth=10.0)


def test_a_resnet_has_53_norms():
    channels = sync_cost.resnet50_channels()
    assert len(channels) == 53
    assert channels[:5] == [
        64,
        64,
        64,
        256,
        64,
    ]  # then the downsample's last in a stage
    assert sum(channels) == 26560  # running means of a torchvision ResNet-50


def test_collectives_by_hand():
    gathered = sync_cost.all_gather(message=20, ranks=4, network=NETWORK)
    assert gathered == (60, 3 * (1 + 2))
    reduced = sync_cost.all_reduce(message=20, ranks=4, network=NETWORK)
    assert reduced == (30, min(6 * (1 + 0.5), 4 * (1 + 2)))
    many = sync_cost.all_reduce(message=1, ranks=512, network=NETWORK)
    assert many.seconds == pytest.approx(18 * 1.1)  # the tree


def test_a_step_by_hand():
    backward = 2 * (2 * 64 * 4) * 7 / 8  # bytes received
    forward = {
        'SyncBN': 7 * 129 * 4,
        'UBN': 2 * (131 * 8) * 7 / 8,
        'UBN, pooled': 2 * (195 * 8) * 7 / 8,
    }
    for layer, received in forward.items():
        assert sync_cost.step_cost([64], 8, layer).received == received + backward


def numbers_sent(channels):
    """What a rank sends in forward, by the model's name of the layer."""
    sent = []
    all_reduce = dist.all_reduce

    def counted(tensor, **options):
        assert tensor.element_size() == sync_cost.FLOAT64
        sent.append(tensor.numel())
        return all_reduce(tensor, **options)

    dist.all_reduce = counted
    x = torch.randn(2, channels, 4, 4)
    UBN(channels)(x)
    UBN(channels, condensation_feature='pooled')(x)
    return dict(zip(('UBN', 'UBN, pooled'), sent, strict=True))


def merged_both_ways(values):
    mean, var, count = torch.tensor(values[:2]), torch.tensor(values[2:4]), values[4]
    rest = mean, var, count, torch.tensor([float(count)]), dist.group.WORLD
    return [
        [t.double() for t in merge(*rest)]
        for merge in (merge_statistics, sync_cost.gather_statistics)
    ]


@pytest.mark.slow
def test_what_is_timed_computes_the_same(tmp_path):
    ranks = Ranks(2, tmp_path)
    try:
        each = [[1.0, -2.0, 0.5, 3.0, 10], [2.0, 4.0, 1.0, 0.25, 30]]
        for reduced, gathered in ranks.run(merged_both_ways, each):
            torch.testing.assert_close(reduced, gathered, rtol=1e-6, atol=1e-6)
            assert reduced[0].tolist() == pytest.approx([1.75, 2.5])
    finally:
        ranks.close()


@pytest.mark.slow
def test_the_command_line_measures(tmp_path):
    tool = ROOT / 'tools/sync_cost.py'
    launcher = ['-m', 'torch.distributed.run', '--nproc_per_node', '2', tool]
    printed = run(*launcher, '--repeats', 2, '--out', 'sync.json', cwd=tmp_path)
    assert '2048 channels' in printed and '(8, 256, 10, 10)' in printed
    content = json.loads((tmp_path / 'sync.json').read_text())
    assert content['machine']['processes'] == 2


@pytest.mark.slow
def test_the_model_counts_what_a_layer_sends(tmp_path):
    ranks = Ranks(2, tmp_path)
    try:
        for sent in ranks.run(numbers_sent, [8, 8]):
            assert sent == {n: sync_cost.FORWARD_NUMBERS[n](8) for n in sent}
    finally:
        ranks.close()


def test_the_command_line_prints_the_model(tmp_path):
    assert sync_cost.model_table() in run(ROOT / 'tools/sync_cost.py', cwd=tmp_path)
