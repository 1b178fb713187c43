_base_ = ['./retinanet_r18-scratch_fpn_bn_6e_shapes.py', '../_base_/norms/bnet.py']
model = dict(backbone=dict(norm_cfg=dict(_delete_=True, **_base_.norm)))
