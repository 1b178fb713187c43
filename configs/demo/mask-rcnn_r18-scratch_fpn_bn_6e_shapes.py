_base_ = './mask-rcnn_r18-scratch_fpn_ubn_6e_shapes.py'
model = dict(backbone=dict(norm_cfg=dict(_delete_=True, type='BN', requires_grad=True)))
