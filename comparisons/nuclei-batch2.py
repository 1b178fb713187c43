# As nuclei.py, with two images a step and the learning rate that goes with them.
_base_ = 'nuclei.py'
batch_size = 2


# The running statistics are those of some 100 steps, where 10 are usual: of 20 images
# they are too rough.
def _slow(norm):
    return dict(
        name=f'{norm}-momentum-0.01',
        preset=norm.lower(),
        options={'model.backbone.norm_cfg.momentum': 0.01},
    )


groups = [
    dict(norms=['BN', 'UBN'], seeds=range(5)),
    dict(norms=[_slow('BN'), _slow('UBN')], seeds=range(3)),
    # Start or structure, as there.
    dict(norms=['BNET', 'BN-small', 'UBN-from-BN'], seeds=range(3)),
]
options = {'optim_wrapper.optimizer.lr': 0.005}
