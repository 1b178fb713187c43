_base_ = './mask-rcnn_r50-live_fpn_ubn_1x_coco.py'
model = dict(backbone=dict(norm_cfg=dict(type='SyncBN')))
