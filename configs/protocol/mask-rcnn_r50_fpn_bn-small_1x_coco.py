_base_ = './mask-rcnn_r50_fpn_bn_1x_coco.py'
# BatchNorm that started small in pre-training is BatchNorm afterwards.
model = dict(
    backbone=dict(
        init_cfg=dict(checkpoint=_base_.imagenet.format(depth=50, norm='bn-small'))
    )
)
