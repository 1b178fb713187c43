_base_ = './resnet50_ubn_8xb32_in1k.py'
model = dict(backbone=dict(depth=101))
