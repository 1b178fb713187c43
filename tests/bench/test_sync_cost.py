"""The model of what synchronisation costs."""

import pytest
from helpers.commands import ROOT, run

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


def test_ubn_sends_two_numbers_more_than_syncbn():
    sync, ubn = (sync_cost.step_cost([64], 8, extra) for extra in (1, 3))
    assert ubn.received - sync.received == 7 * 2 * 4


def test_the_command_line_prints_the_model(tmp_path):
    assert sync_cost.model_table() in run(ROOT / 'tools/sync_cost.py', cwd=tmp_path)
