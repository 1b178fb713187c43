# The demo's schedule and runtime: seven minutes for each norm on two CPU cores.
_base_ = 'mmdet::_base_/default_runtime.py'

max_epochs = 6
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
# Kernels decay as convolutions do, and nothing else of a norm layer decays.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='UBNOptimWrapperConstructor',
    paramwise_cfg=dict(norm_decay_mult=0.0),
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.0001),
)

default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=2))
log_processor = dict(window_size=10)
# Several processes on CPU as well: gloo, and no devices to name.
env_cfg = dict(dist_cfg=dict(backend='gloo'))
model_wrapper_cfg = dict(
    type='MMDistributedDataParallel',
    device_ids=None,
    broadcast_buffers=False,
    find_unused_parameters=False,
)
randomness = dict(seed=0)
