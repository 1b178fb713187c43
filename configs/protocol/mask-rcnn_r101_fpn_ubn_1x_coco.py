_base_ = './mask-rcnn_r50_fpn_ubn_1x_coco.py'
model = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(checkpoint=_base_.imagenet.format(depth=101, norm='ubn')),
    )
)
