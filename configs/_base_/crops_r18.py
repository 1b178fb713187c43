# ImageNet's recipe for crops of annotated objects (tools/make_crops.py).
_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'

num_classes = 80
image_size = 128  # at 64 the last stage has 2x2 maps, and the features grow later

# zero_init_residual: see pretrain/resnet50_bn_8xb32_in1k.py.
model = dict(
    backbone=dict(zero_init_residual=False), head=dict(num_classes=num_classes)
)
data_preprocessor = dict(num_classes=num_classes)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    # The crops are tight: a small part of one shows no object.
    dict(type='RandomResizedCrop', scale=image_size, crop_ratio_range=(0.5, 1.0)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(image_size, image_size)),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64, dataset=dict(data_root='data/crops', pipeline=train_pipeline)
)
val_dataloader = dict(
    batch_size=64, dataset=dict(data_root='data/crops', pipeline=test_pipeline)
)
test_dataloader = val_dataloader

# 0.1 for 256 images per step, a quarter for a quarter; decayed after 30, 60 and 90% of the
# epochs.
optim_wrapper = dict(constructor='UBNOptimWrapperConstructor', optimizer=dict(lr=0.025))
auto_scale_lr = dict(enable=True, base_batch_size=64)
max_epochs = 20
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', by_epoch=True, milestones=[6, 12, 18], gamma=0.1),
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=2))
randomness = dict(seed=0)
