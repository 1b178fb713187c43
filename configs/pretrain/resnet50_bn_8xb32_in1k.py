_base_ = [
    'mmpretrain::resnet/resnet50_8xb32_in1k.py',
    '../_base_/custom_imports.py',
]
# zero_init_residual would silence the branches of BatchNorm, and not those of UBN, whose
# output is its kernel's.
model = dict(
    backbone=dict(
        norm_cfg=dict(type='BN', requires_grad=True), zero_init_residual=False
    )
)
# At the full rate, the first step would move UBN's kernels by up to 61% of their norm.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=2500),
    dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60, 90], gamma=0.1),
]
# As in the paper, all of a norm layer decays.
optim_wrapper = dict(constructor='UBNOptimWrapperConstructor')
auto_scale_lr = dict(enable=True)
custom_hooks = [
    dict(type='mmdet.CheckInvalidLossHook'),
    # An evaluation in training is then of what the checkpoint holds, on every rank.
    dict(type='BroadcastBuffersHook'),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
randomness = dict(seed=0)
