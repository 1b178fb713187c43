"""InputBN: numbers, padding, state, ranks, and a detector that trains with it."""

import copy

import pytest
import torch
from helpers.commands import ROOT
from helpers.inference import CHECKPOINT, train_and_infer
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS
from torch import nn

from ubn_mmdet import InitBN
from ubn_mmdet.mm.preprocessor import InputBN

SIZES = (5, 7), (8, 6), (3, 4)
WEIGHT = 0.058


def images(sizes=SIZES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(0, 256, (3, h, w), generator=generator, dtype=torch.uint8)
        for h, w in sizes
    ]


def batch(pictures):
    return {'inputs': pictures, 'data_samples': [DetDataSample() for _ in pictures]}


def moments(pictures):
    """Mean and biased variance of every pixel, by channel."""
    pixels = torch.cat([p.double().flatten(1) for p in pictures], dim=1)
    mean = pixels.mean(1)
    return mean, ((pixels - mean[:, None]) ** 2).mean(1), pixels.shape[1]


def normalized(pictures, mean, var):
    return [
        WEIGHT * (p.double() - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
        for p in pictures
    ]


def assert_padded(inputs, expected):
    """Each image in its corner, and zeros wherever there is none."""
    for got, want in zip(inputs, expected, strict=True):
        h, w = want.shape[1:]
        torch.testing.assert_close(got[:, :h, :w].double(), want, rtol=1e-4, atol=1e-6)
        assert not got[:, h:].any() and not got[:, :, w:].any()


def test_training_takes_the_statistics_of_the_real_pixels_alone():
    layer = InputBN(pad_size_divisor=16)
    pictures = images()
    out = layer(batch(pictures), training=True)['inputs']
    assert out.shape == (3, 3, 16, 16) and out.dtype == torch.float32
    mean, var, n = moments(pictures)
    assert_padded(out, normalized(pictures, mean, var))
    state = layer.state_dict()
    wanted = {'running_mean': 0.1 * mean, 'running_var': 0.9 + 0.1 * var * n / (n - 1)}
    for name, want in wanted.items():  # to float32's rounding
        got = state[f'norm.{name}'].double()
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_evaluation_takes_the_running_statistics_and_leaves_them():
    layer = InputBN(pad_size_divisor=16)
    for seed in range(3):
        layer(batch(images(seed=seed)), training=True)
    before = copy.deepcopy(layer.state_dict())
    pictures = images(seed=9)
    mean, var = (
        layer.norm.get_buffer(f'running_{n}').double() for n in ('mean', 'var')
    )
    for told, mode in ((False, True), (True, False), (False, False)):
        layer.train(mode)
        out = layer(batch(pictures), training=told)['inputs']
        assert_padded(out, normalized(pictures, mean, var))
        assert layer.training == layer.norm.training == mode
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


def test_a_stacked_batch_is_the_same_as_a_list():
    pictures = images([(6, 8)] * 2)
    of_list = InputBN()(batch(pictures), training=True)['inputs']
    stacked = InputBN()(batch(pictures) | {'inputs': torch.stack(pictures)}, True)
    torch.testing.assert_close(stacked['inputs'], of_list)


def test_channels_may_be_reversed():
    pictures = images()
    out = InputBN(bgr_to_rgb=True)(batch(pictures), training=True)['inputs']
    want = InputBN()(batch(pictures), training=True)['inputs']
    torch.testing.assert_close(out, want[:, [2, 1, 0]], rtol=0, atol=0)


def test_what_the_base_class_does_it_still_does():
    """With the same mean and std, all but the pixels' scale is the base class's."""
    settings = {'pad_size_divisor': 8, 'bgr_to_rgb': True}
    mean, std = [120.0, 110.0, 100.0], [60.0, 61.0, 62.0]
    ours = InputBN(initial_weight=1.0, eps=1e-12, **settings).eval()
    # The base class reverses the channels before it normalises, ours after.
    ours.norm.running_mean.copy_(torch.tensor(mean).flip(0))
    ours.norm.running_var.copy_(torch.tensor(std).square().flip(0))
    theirs = DetDataPreprocessor(mean=mean, std=std, **settings)
    got, want = (module(batch(images())) for module in (ours, theirs))
    torch.testing.assert_close(got['inputs'], want['inputs'])
    for a, b in zip(got['data_samples'], want['data_samples'], strict=True):
        assert a.metainfo == b.metainfo


def test_the_weight_alone_learns():
    layer = InputBN()
    assert layer.norm.weight.tolist() == pytest.approx([WEIGHT] * 3)
    out = layer(batch(images()), training=True)['inputs']
    out.square().sum().backward()
    assert layer.norm.weight.grad.all()
    assert layer.norm.bias.grad is None and not layer.norm.bias.any()
    assert not any(p.requires_grad for p in InputBN(requires_grad=False).parameters())


def test_its_layer_is_known_as_initbn():
    """So that what lowers the learning rate of InitBN's weights lowers this one's."""
    assert type(InputBN().norm) is InitBN


def test_state_goes_through_a_checkpoint():
    layer, restored = InputBN(), InputBN()
    layer(batch(images()), training=True)
    restored.load_state_dict(layer.state_dict(), strict=True)
    for module in (layer, restored):
        module.eval()
    outs = [m(batch(images(seed=1)))['inputs'] for m in (layer, restored)]
    torch.testing.assert_close(*outs, rtol=0, atol=0)


def preprocess(task):
    """One rank's part."""
    layer, pictures = task
    out = layer(batch(pictures), training=True)['inputs']
    return out.detach(), dict(layer.named_buffers())


@pytest.mark.slow
def test_two_ranks_are_one_process_with_all_images(two_ranks):
    shares = [images(), images([(9, 4)], seed=1)]
    results = two_ranks.run(preprocess, [(InputBN(), share) for share in shares])
    alone = InputBN()
    everything = alone(batch(shares[0] + shares[1]), training=True)['inputs']
    for share, (out, buffers) in zip((slice(3), slice(3, 4)), results, strict=True):
        want = everything[share, :, : out.shape[2], : out.shape[3]]
        torch.testing.assert_close(out, want)
        torch.testing.assert_close(buffers, dict(alone.named_buffers()))


def test_a_config_builds_it_and_clears_the_base_configs_statistics():
    config = {'type': 'InputBN', 'mean': None, 'std': None, 'pad_size_divisor': 32}
    assert isinstance(MODELS.build(config), InputBN)


def test_senseless_settings_are_refused():
    with pytest.raises(TypeError, match='InputBN has no mean.*mean=None'):
        InputBN(mean=[1.0, 2.0, 3.0], std=[1.0, 1.0, 1.0])
    with pytest.raises(RuntimeError, match='expected input with 3 channels'):
        InputBN()(batch([torch.zeros(1, 4, 4)]))


CONFIG = f"""
_base_ = [
    '{ROOT}/configs/demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py',
    '{ROOT}/configs/_base_/input_bn.py',
]
custom_imports = _base_.input_bn_imports
model = dict(data_preprocessor=_base_.input_bn)
"""
LOOK = """
saved = torch.load(checkpoint, weights_only=False)['state_dict']
norm = model.data_preprocessor.norm
assert norm.running_mean.min() > 1
for name, value in norm.state_dict().items():
    assert torch.equal(value, saved[f'data_preprocessor.norm.{name}']), name
"""


@pytest.mark.slow
def test_a_detector_trains_evaluates_and_infers(tmp_path):
    train_and_infer(tmp_path, CONFIG, LOOK)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=False)['state_dict']
    weight = state['data_preprocessor.norm.weight']
    assert not torch.equal(weight, nn.init.constant_(weight.clone(), WEIGHT))
