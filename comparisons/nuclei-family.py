# As nuclei.py, with the family and controls (docs/protocol.md, E3; for BN-scaled, E1b; for
# GN, E1 and E7).
# The warm-ups of other papers are hundreds of times this training: they are shortened in
# proportion, to the first and the second third of its 1,590 steps. Norms without a rate of
# their own have BN's.
_base_ = 'nuclei.py'
_norm = 'model.backbone.norm_cfg'
_initbn = dict(
    name='InitBN',
    options={'optim_wrapper.constructor': 'InitBNOptimWrapperConstructor'},
)
_batchrenorm = dict(
    name='BatchRenorm',
    options={
        f'{_norm}.plain_steps': 530,
        f'{_norm}.r_steps': 1060,
        f'{_norm}.d_steps': 1060,
    },
)
_powernorm = dict(name='PowerNorm', options={f'{_norm}.warmup_steps': 530})
# Like any other kernel, it decays.
_depthwise = dict(
    name='BN-depthwise',
    preset='bn',
    lr=0.02,
    options={
        f'{_norm}.type': 'ubn_mmdet.comparison.controls.DepthwiseBN',
        'optim_wrapper.paramwise_cfg.custom_keys': dict(
            depthwise_kernel=dict(decay_mult=1.0)
        ),
    },
)
_reversed = dict(name='UBN-gate-reversed', lr=0.02)
# C2 to C5 with UBN over those with BN, at the start: root mean squares of the features of
# 16 training images, means over 5 seeds. At both rates, as the small scale may be what lets
# UBN train at the larger one.
_neck = {
    'model.neck.type': 'ubn_mmdet.comparison.controls.ScaledFPN',
    'model.neck.scales': [0.125, 0.089, 0.061, 0.041],
}
_scaled = [
    dict(name='BN-scaled', preset='bn', options=_neck),
    dict(name='BN-scaled-fast', preset='bn', lr=0.02, options=_neck),
]
# At BN's rate, at half of it and at twice.
_gn = ['GN', *(dict(name=f'GN-lr-{lr}', preset='gn', lr=lr) for lr in (0.005, 0.02))]
# Again, with the code that the others run with.
_main = ['BN', dict(name='UBN', lr=0.02), dict(name='BNET', lr=0.02)]
_family = ['RBN', 'IEBN', _initbn, 'BGN', _batchrenorm, 'MABN', _powernorm]
groups = [
    dict(norms=[*_main, *_family, _depthwise, _reversed], seeds=range(10, 13)),
    dict(norms=[*_scaled, *_gn], seeds=range(10, 15)),
    dict(norms=_main, seeds=range(13, 15)),  # beside these
]
primary = []
