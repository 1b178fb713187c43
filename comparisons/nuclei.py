# Does UBN beat BatchNorm, and if so, by what? From scratch, on one class of small objects.
data = 'data/nuclei'
detector = 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
image_size = 160
epochs = 6
batch_size = 8
primary = [dict(norm='UBN', metric='segm_mAP')]
# UBN's random kernel beside BatchNorm's weight: nothing starts small.
_unit = dict(
    name='UBN-weight-1',
    preset='ubn',
    options={'model.backbone.norm_cfg.initial_weight': 1},
)
# How UBN's own parts are trained. What centering and scaling add to BNET learns slowly:
_gentle = {
    name: dict(lr_mult=0.1)
    for name in ('centering_weight', 'scaling_weight', 'scaling_bias')
}
_slow = dict(
    name='UBN-lr-0.1',
    preset='ubn',
    options={'optim_wrapper.paramwise_cfg': dict(custom_keys=_gentle)},
)
# No parameter of a norm decays:
_no_decay = dict(
    name='UBN-no-decay',
    preset='ubn',
    options={'optim_wrapper.paramwise_cfg': dict(norm_decay_mult=0)},
)
# The running statistics are those of some 30 steps, where 10 are usual:
_momentum = dict(
    name='UBN-momentum-0.03',
    preset='ubn',
    options={'model.backbone.norm_cfg.momentum': 0.03},
)
groups = [
    dict(norms=['BN', 'UBN', 'BNET'], seeds=range(5)),
    # Start or structure: BatchNorm with a small weight, UBN from BatchNorm's start, and
    # UBN's parts alone.
    dict(norms=['BN-small', 'UBN-from-BN', 'UBN-no-gate', 'RBN'], seeds=range(3)),
    dict(norms=[_unit], seeds=range(3)),
    dict(norms=[_slow, _no_decay, _momentum], seeds=range(3)),
]
