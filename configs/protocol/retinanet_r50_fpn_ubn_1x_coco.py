_base_ = ['./retinanet_r50_fpn_bn_1x_coco.py', '../_base_/norms/ubn.py']
model = dict(
    backbone=dict(
        norm_cfg=dict(_delete_=True, **_base_.norm),
        init_cfg=dict(checkpoint=_base_.imagenet.format(depth=50, norm='ubn')),
    )
)
