_base_ = ['./resnet50_bn_8xb32_in1k.py', '../_base_/norms/ubn.py']
# Like its twin, it normalises the 32 images of one GPU by their own statistics.
model = dict(backbone=dict(norm_cfg=dict(_delete_=True, sync=False, **_base_.norm)))
