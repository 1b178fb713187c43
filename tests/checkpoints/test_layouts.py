"""Checkpoints of BatchNorm, of UBN, and in the layout of UBN's authors."""

import copy

import pytest
import torch
from helpers.authors import AuthorsUBN
from helpers.commands import ROOT, run
from helpers.layers import OFF, images, trained
from helpers.layers import shake as shake_layer
from mmdet.models import ResNet
from torch import nn

from ubn_mmdet import UBN
from ubn_mmdet.checkpoints import layouts
from ubn_mmdet.layers import BGN, FAMILY, L2BN

MEMBERS = [member for member in FAMILY if member is not BGN]  # statistics of groups
TOOL = ROOT / 'tools/convert_checkpoint.py'


def resnet(norm, **settings):
    torch.manual_seed(0)
    model = ResNet(18, norm_cfg={'type': norm} | settings)
    model.eval()  # which does not return the model, as others do
    return model


def shake(model):
    """Give norms parameters and statistics as after training."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias.data, module.running_mean):
                tensor.uniform_(-0.5, 0.5, generator=generator)
    return model


@pytest.mark.parametrize('kernel_size', [1, 3, 5])
def test_the_authors_layout_maps_exactly(kernel_size):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 1).double()
    theirs = nn.Sequential(conv, AuthorsUBN(4, kernel_size)).eval()
    norm = UBN(4, kernel_size=kernel_size, dtype=torch.float64)
    ours = nn.Sequential(nn.Conv2d(3, 4, 1).double(), norm).eval()
    state = layouts.authors_to_ubn(copy.deepcopy(theirs.state_dict()))
    state['1.num_batches_tracked'] = torch.tensor(0)
    ours.load_state_dict(state, strict=True)
    x = images(2, 3, 6, 5)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_a_part_of_the_authors_layout_is_named():
    state = nn.Sequential(AuthorsUBN(4)).state_dict()
    del state['0.scale_bias']
    with pytest.raises(ValueError, match='0: lacks scale_bias'):
        layouts.authors_to_ubn(state)
    with pytest.raises(ValueError, match="no layer has the authors' keys"):
        layouts.authors_to_ubn(resnet('BN').state_dict())


@pytest.mark.parametrize(
    'member', [m for m in MEMBERS if m is not L2BN], ids=lambda member: member.__name__
)
def test_to_batchnorm_where_it_is_exact(member):
    layer = shake_layer(member(4, dtype=torch.float64)).eval()
    with torch.no_grad():
        for name in ('centering_weight', 'scaling_weight'):
            if hasattr(layer, name):
                layer.get_parameter(name).zero_()
        if hasattr(layer, 'spatial_weight'):
            layer.spatial_weight.zero_()
    norm = nn.BatchNorm2d(4, dtype=torch.float64).eval()
    state = layouts.to_batchnorm(nn.Sequential(layer).state_dict(), layer.stages)
    nn.Sequential(norm).load_state_dict(state, strict=True)
    x = images(2, 4, 6, 5)
    torch.testing.assert_close(norm(x), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    'depends', ['centering_weight', 'scaling_weight', 'spatial_weight']
)
def test_to_batchnorm_refuses_what_depends_on_the_input(depends):
    layer = nn.Sequential(nn.Identity(), UBN(4))
    with torch.no_grad():
        layer[1].get_parameter(depends)[2] = 0.1
    with pytest.raises(ValueError, match=f'^1: {depends} is not zero'):
        layouts.to_batchnorm(layer.state_dict(), layer[1].stages)


@pytest.mark.parametrize('lacking', ['affine', 'track_running_stats'])
def test_to_batchnorm_leaves_no_layer_behind(lacking):
    layers = nn.Sequential(UBN(4), UBN(4, **{lacking: False}))
    with pytest.raises(ValueError, match=r'^1\.centering_weight: its layer lacks'):
        layouts.to_batchnorm(layers.state_dict(), layers[0].stages)


def test_there_and_back():
    state = shake(resnet('BN')).state_dict()
    model = resnet('UBN', kernel_size=5)
    model.load_state_dict(state)
    there = model.state_dict()
    assert there['bn1.spatial_weight'].shape == (64, 5, 5)
    back = layouts.to_batchnorm(there, UBN(1).stages)
    torch.testing.assert_close(back, dict(state))


def test_stages_that_are_off_need_no_keys():
    layer = nn.Sequential(UBN(4, **OFF))
    state = layouts.to_batchnorm(layer.state_dict(), UBN(1).stages)
    assert state.keys() == layer.state_dict().keys()


@pytest.mark.slow
class TestCommandLine:
    """tools/convert_checkpoint.py."""

    def test_a_torchvision_backbone_becomes_a_detectors(self, tmp_path):
        model = shake(resnet('BN'))
        state = model.state_dict() | {'fc.weight': torch.zeros(10, 512)}
        torch.save(state, tmp_path / 'resnet18.pth')
        out = run(TOOL, 'resnet18.pth', 'bn.pth', '--to=bn', '--backbone', cwd=tmp_path)
        assert 'left out: fc.weight' in out and 'bn.pth: 20 norm layers' in out
        converted = torch.load(tmp_path / 'bn.pth', weights_only=True)['state_dict']
        detector = nn.ModuleDict({'backbone': resnet('UBN')})
        detector.load_state_dict(converted, strict=True)

    def test_what_needs_no_conversion_is_refused(self, tmp_path):
        torch.save(resnet('BN').state_dict(), tmp_path / 'bn.pth')
        out = run(TOOL, 'bn.pth', 'ubn.pth', '--to=ubn', cwd=tmp_path, ok=False)
        assert 'UBN loads a BatchNorm checkpoint as it is' in out

    def test_the_source_is_never_overwritten(self, tmp_path):
        path = tmp_path / 'bn.pth'
        torch.save(resnet('BN').state_dict(), path)
        before = path.read_bytes()
        out = run(TOOL, 'bn.pth', 'bn.pth', '--to=bn', cwd=tmp_path, ok=False)
        assert 'bn.pth exists already' in out and path.read_bytes() == before

    def test_a_failure_writes_nothing_and_says_why(self, tmp_path):
        torch.save(nn.Sequential(trained(4)).state_dict(), tmp_path / 'ubn.pth')
        out = run(TOOL, 'ubn.pth', 'bn.pth', '--to=bn', cwd=tmp_path, ok=False)
        assert out == 'convert_checkpoint: 0: scaling_weight is not zero\n'
        assert [path.name for path in tmp_path.iterdir()] == ['ubn.pth']

    def test_a_training_checkpoint_is_read_on_trust_and_keeps_its_meta(self, tmp_path):
        state = nn.Sequential(trained(4, **OFF)).state_dict()
        checkpoint = {
            'state_dict': state,
            'meta': {'epoch': 3},
            'optimizer': {'state': nn.ReLU()},  # not a tensor
        }
        torch.save(checkpoint, tmp_path / 'epoch_3.pth')
        command = [TOOL, 'epoch_3.pth', 'bn.pth', '--to=bn']
        assert '--trust reads it' in run(*command, cwd=tmp_path, ok=False)
        run(*command, '--trust', cwd=tmp_path)
        written = torch.load(tmp_path / 'bn.pth', weights_only=True)
        assert (
            written.keys() == {'state_dict', 'meta'} and written['meta']['epoch'] == 3
        )
