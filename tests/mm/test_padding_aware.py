"""PaddingAware: detectors that do not see the padding of their batches."""

import copy

import pytest
import torch
import torch.distributed as dist
from helpers.commands import ROOT
from helpers.inference import train_and_infer
from mmdet.structures import DetDataSample
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS

from ubn_mmdet.mm import padding_aware
from ubn_mmdet.mm.padding_aware import PaddingAware, roi_layers

SIZES = (40, 64), (64, 33), (23, 17)
PIXELS = {'mean': [100.0] * 3, 'std': [50.0] * 3}


def detector(name='retinanet', aware=True, divisor=1, **settings):
    """A detector of the demo, in float64, all its norms away from the start."""
    register_all_modules()
    cfg = Config.fromfile(
        ROOT / f'configs/demo/{name}_r18-scratch_fpn_ubn_6e_shapes.py'
    )
    cfg.model.backbone.base_channels = cfg.model.backbone.stem_channels = 16
    cfg.model.neck.in_channels = [16, 32, 64, 128]
    cfg.merge_from_dict(settings)
    cfg.model.data_preprocessor.pad_size_divisor = divisor
    if aware:
        cfg.model.data_preprocessor.type = 'PaddingAware'
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).double()
    model.init_weights()
    return model


def batch(sizes=SIZES):
    torch.manual_seed(1)
    return demo_mm_inputs(
        len(sizes), [(3, *size) for size in sizes], num_classes=4, with_mask=True
    )


def features(model, data):
    """Of the pyramid, in the detector's own forward; and the size of the batch."""
    seen = []
    handle = model.neck.register_forward_hook(lambda *args: seen.append(args[2]))
    data = model.data_preprocessor(copy.deepcopy(data))
    data['inputs'] = data['inputs'].double()
    with torch.no_grad():
        model(**data, mode='tensor')
    handle.remove()
    return seen[0], data['inputs'].shape[2:]


# With convolutions and maximum pooling; with average pooling beside strided convolutions.
@pytest.mark.parametrize('backbone', ['ResNet', 'ResNetV1d'])
def test_features_are_those_of_each_image_alone(backbone):
    settings = {'model.backbone.type': backbone}
    model = detector(divisor=128, **settings).eval()
    plain = detector(aware=False, divisor=1, **settings).eval()
    plain.load_state_dict(model.state_dict())
    data = batch()
    levels, padded = features(model, data)
    assert padded == (128, 128)
    for i in range(len(SIZES)):
        one = {key: value[i : i + 1] for key, value in data.items()}
        alone, size = features(plain, one)
        assert size == SIZES[i]
        for level, want in zip(levels, alone, strict=True):
            h, w = want.shape[2:]
            torch.testing.assert_close(level[i : i + 1, :, :h, :w], want)


def test_statistics_do_not_depend_on_the_padding():
    states = []
    for aware, divisor in ((True, 1), (True, 128), (False, 128)):
        model = detector(aware=aware, divisor=divisor).train()
        features(model, batch())
        states.append(dict(model.backbone.named_buffers()))
    torch.testing.assert_close(states[1], states[0])
    moved = [state['layer2.0.bn1.running_var'] for state in states]
    assert not torch.allclose(moved[2], moved[0], rtol=0.01)


def statistics_after_a_step(task):
    """What the layers keep of some of the images; gradients go through as well."""
    divisor, part = task
    model = detector(divisor=divisor).train()
    wrapped = model
    if dist.is_initialized():
        wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
    data = {key: value[part] for key, value in batch().items()}
    data = model.data_preprocessor(data, training=True)
    data['inputs'] = data['inputs'].double()
    loss, _ = model.parse_losses(wrapped(**data, mode='loss'))
    loss.backward()
    # Condensation is left out: whole maps are compared within a rank.
    return {n: b for n, b in model.named_buffers() if 'condensation' not in n}


@pytest.mark.slow
def test_ranks_that_pad_differently_are_one_process_that_does_not(two_ranks):
    want = statistics_after_a_step((1, slice(None)))
    tasks = (128, slice(2)), (1, slice(2, None))
    for kept in two_ranks.run(statistics_after_a_step, tasks):
        torch.testing.assert_close(kept, want)


def test_a_compiled_detector_does_not_see_it_either():
    model = detector(divisor=128).eval()
    want, _ = features(model, batch())
    model.forward = torch.compile(model.forward, backend='eager')  # as cfg.compile does
    got, _ = features(model, batch())
    torch.testing.assert_close(got, want)


def test_layers_of_a_roi_head_are_apart():
    head = {
        'model.roi_head.bbox_head.type': 'Shared4Conv1FCBBoxHead',
        'model.roi_head.bbox_head.conv_out_channels': 8,
        'model.roi_head.bbox_head.norm_cfg': {'type': 'UBN'},
    }
    model = detector('mask-rcnn', **head)
    apart = roi_layers(model)
    of_head = {n for n, m in model.named_modules() if m in apart}
    assert 'roi_head.bbox_head.shared_convs.0.bn' in of_head
    assert all(name.startswith('roi_head') for name in of_head)
    # As many regions as images, in maps that a stride of 8 would make of 56 pixels.
    rois = torch.rand(2, 8, 7, 7)
    norm = model.roi_head.bbox_head.shared_convs[0].bn
    seen = []
    model.backbone.register_forward_hook(lambda *_: seen.append(norm(rois)))
    model.float().eval()
    data = model.data_preprocessor(batch([(56, 20), (30, 56)]))
    with torch.no_grad():
        model(**data, mode='tensor')
        torch.testing.assert_close(seen[0], norm(rois))


def test_what_it_needs_is_asked_for():
    with pytest.raises(ValueError, match='pad_value must be 0 for PaddingAware, got 1'):
        PaddingAware(pad_value=1)
    model = detector().eval()
    data = {'inputs': torch.zeros(1, 3, 64, 64).double()}
    with pytest.raises(KeyError, match="'img_shape'.*meta_keys"):
        model(**data, data_samples=[DetDataSample()])
    assert len(model(**data)) == 2  # without samples, images are taken as they are


def test_a_detector_without_our_norms_is_told_so(monkeypatch):
    said = []
    monkeypatch.setattr(
        padding_aware, 'print_log', lambda *args, **_: said.append(args)
    )
    model = detector(**{'model.backbone.norm_cfg': {'_delete_': True, 'type': 'BN'}})
    for _ in range(2):
        features(model, batch())
    [[text]] = said
    assert 'no norm layer of ubn_mmdet' in text


CONFIG = f"""
_base_ = '{ROOT}/configs/demo/mask-rcnn_r18-scratch_fpn_ubn_6e_shapes.py'
model = dict(data_preprocessor=dict(type='PaddingAware'))
"""
LOOK = """
from ubn_mmdet.mm.padding_aware import PaddingAware
assert isinstance(model.data_preprocessor, PaddingAware)
"""


@pytest.mark.slow
def test_a_detector_trains_evaluates_and_infers_by_one_line_more(tmp_path):
    trained = train_and_infer(tmp_path, CONFIG, LOOK)
    assert 'no norm layer of ubn_mmdet' not in trained
