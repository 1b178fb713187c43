# What every detector at full size has, beside the toolbox's own config.
_base_ = './custom_imports.py'
custom_hooks = [
    dict(type='CheckInvalidLossHook'),
    # An evaluation in training is then of what the checkpoint holds, on every rank.
    dict(type='BroadcastBuffersHook'),
]
randomness = dict(seed=0)
