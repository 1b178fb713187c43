_base_ = './faster-rcnn_r50_fpn_bn_1x_coco.py'
model = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(checkpoint=_base_.imagenet.format(depth=101, norm='bn')),
    )
)
