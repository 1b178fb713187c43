# Two processes with two images each: statistics of two images, or merged, of four.
_base_ = 'nuclei.py'
batch_size = 2
processes = 2
groups = [
    dict(norms=['BN', 'UBN'], seeds=range(5)),  # UBN merges by itself
    dict(
        norms=[
            'BN-merged',
            dict(
                name='UBN-local',
                preset='ubn',
                options={'model.backbone.norm_cfg.sync': False},
            ),
        ],
        seeds=range(3),
    ),
]
options = {'optim_wrapper.optimizer.lr': 0.01}
