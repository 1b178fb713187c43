# RetinaNet for norms in all its parts, trained from scratch.
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', './coco.py']
# RetinaHead calls one norm layer once per pyramid level, which mixes the statistics of
# the levels; RetinaSepBNHead shares only the convolutions.
model = dict(
    backbone=dict(
        frozen_stages=-1, norm_eval=False, zero_init_residual=False, init_cfg=None
    ),
    bbox_head=dict(type='RetinaSepBNHead', num_ins=5),
)

# From here on as in _base_/mask-rcnn_r50-scratch_6x.py.
optim_wrapper = dict(
    constructor='UBNOptimWrapperConstructor',
    paramwise_cfg=dict(norm_decay_mult=0.0),
)

max_epochs = 73

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(
        type='MultiStepLR',
        begin=0,
        end=max_epochs,
        by_epoch=True,
        milestones=[65, 71],
        gamma=0.1,
    ),
]

train_cfg = dict(max_epochs=max_epochs)

# only keep latest 3 checkpoints
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
auto_scale_lr = dict(enable=True)
