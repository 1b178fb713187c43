"""BGN in all that the family promises, and where its groups are no channels."""

import pytest
import torch
from helpers.layers import images
from helpers.norm_tester import NormTester
from torch import nn

from ubn_mmdet import BGN

C = 6
GROUPS = {
    'one group': 1,
    'groups of maps': 3,
    'maps': C,
    'halves of maps': 2 * C,
    'across maps': 4,
}


class TestBGN(NormTester):
    norm = BGN
    compiles_since = '2.6'  # PyTorch 2.4 breaks the graph at a named tuple's method
    channels = C
    variants = {name: {'num_groups': groups} for name, groups in GROUPS.items()}
    wrong = [
        ({'num_groups': 0}, 'num_groups.*positive integer, got 0'),
        ({'num_groups': 2.0}, 'num_groups.*positive integer, got 2.0'),
    ]

    def is_batchnorm(self, settings):
        return settings['num_groups'] == C

    def test_one_value_per_channel_is_refused_in_training_alone(self, settings):
        """Of a group, here: with one sample there may be groups of several channels."""
        groups = settings['num_groups']
        layer, x = self.trained(settings), self.images(1, 1, 1)
        if C % groups:
            with pytest.raises(
                ValueError, match=rf'divide C\*H\*W = 6\*1\*1, got {groups}'
            ):
                layer(x)
        elif groups == C:
            with pytest.raises(ValueError, match='more than 1 value per group'):
                layer(x)
        else:
            self.compare(layer, x)
            assert layer.eval()(x).isfinite().all()


@pytest.mark.parametrize('groups', GROUPS.values(), ids=GROUPS)
def test_a_part_of_a_map_gives_maps_in_the_usual_order(groups):
    x = images(2, 2 * C, 4, 4).chunk(2, 1)[0]
    y = BGN(C, groups).double()(x)
    assert y.is_contiguous()


def test_the_running_statistics_are_those_of_groups():
    shapes = {name: tuple(v.shape) for name, v in BGN(6, 3).state_dict().items()}
    assert shapes == {
        'weight': (6,),
        'bias': (6,),
        'running_mean': (3,),
        'running_var': (3,),
        'num_batches_tracked': (),
    }


def test_one_sample_and_whole_maps_are_group_norm():
    layer = BGN(C, num_groups=3, dtype=torch.float64)
    norm = nn.GroupNorm(3, C, dtype=torch.float64)
    x = images(1, C, 5, 4)
    torch.testing.assert_close(layer(x), norm(x))


@pytest.mark.parametrize('strict', [True, False])
def test_a_batchnorm_checkpoint_is_refused_by_name(strict):
    net = nn.Sequential(nn.Conv2d(3, C, 1), BGN(C, num_groups=2))
    state = nn.Sequential(nn.Conv2d(3, C, 1), nn.BatchNorm2d(C)).state_dict()
    with pytest.raises(RuntimeError, match=r'size mismatch for 1\.running_mean'):
        net.load_state_dict(state, strict=strict)


@pytest.mark.parametrize('training', [True, False])
def test_groups_that_do_not_fit_are_refused(training):
    layer = BGN(C, num_groups=4).train(training)
    before = layer.running_mean.clone()
    with pytest.raises(ValueError, match=r'divide C\*H\*W = 6\*5\*3, got 4'):
        layer(torch.randn(2, C, 5, 3))
    assert torch.equal(layer.running_mean, before)
