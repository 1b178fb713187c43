_base_ = [
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    '../_base_/norms/ubn-from-bn.py',
    '../_base_/coco.py',
]
# The weights are torchvision's, trained with BatchNorm. A UBN that holds them is that
# BatchNorm, and departs from it only where its own parameters learn: nothing is frozen,
# and the statistics are live.
model = dict(
    backbone=dict(
        frozen_stages=-1,
        norm_eval=False,
        norm_cfg=dict(_delete_=True, **_base_.norm),
    )
)
optim_wrapper = dict(
    constructor='UBNOptimWrapperConstructor',
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
auto_scale_lr = dict(enable=True)
