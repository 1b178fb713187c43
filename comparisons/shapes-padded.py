# Training images of widely different sizes, so that half of a batch is padding, with the
# padding in the statistics and without. Validation images are whole, and not padded.
# BatchNorm without padding in its statistics is UBN with all stages off.
_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(160, 160), keep_ratio=True),
    # Each side keeps 0.3 to 1 of its length.
    dict(type='RandomCrop', crop_type='relative_range', crop_size=(0.3, 0.3)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
_aware = {'model.data_preprocessor.type': 'PaddingAware'}

_base_ = 'demo.py'
options = {'train_dataloader.dataset.pipeline': _pipeline}
groups = [
    dict(
        norms=[
            'BN',
            dict(name='BN-aware', preset='bn-merged', options=_aware),
            'UBN',
            dict(name='UBN-aware', preset='ubn', options=_aware),
        ],
        seeds=range(3),
    )
]
