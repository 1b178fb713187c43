_base_ = [
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    '../_base_/norms/bn-merged.py',
    '../_base_/coco.py',
]
# The twin: see the file with ubn.
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
