_base_ = './retinanet_r101_fpn_ubn_1x_coco.py'
model = dict(
    backbone=dict(
        norm_cfg=dict(type='BN'), init_cfg=dict(checkpoint={{_base_.bn_imagenet.r101}})
    )
)
