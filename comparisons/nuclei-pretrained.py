# The backbones of coco_mini-pretraining.py in detectors for nuclei, which learn in minutes:
# as in the paper's protocol, stem and first stage as they are and all statistics held, and,
# as *-live, with nothing frozen.
_runs = 'work_dirs/comparisons/coco_mini-pretraining/resnet18_1xb64_crops'


def _pretrained(name, suffix='', **options):
    start = dict(
        _delete_=True,
        type='Pretrained',
        prefix='backbone.',
        checkpoint=f'{_runs}/{name}/seed0/final.pth',
    )
    options |= {'model.backbone.init_cfg': start}
    return dict(name=name + suffix, preset=name.lower(), options=options)


_frozen = {'model.backbone.norm_eval': True, 'model.backbone.frozen_stages': 1}
_names = 'BN', 'UBN', 'BNET'

data = 'data/nuclei'
detector = 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
image_size = 160
epochs = 6
batch_size = 8
groups = [
    dict(
        norms=[
            *(_pretrained(name, **_frozen) for name in _names),
            *(_pretrained(name, '-live') for name in _names),
        ],
        seeds=range(3),
    )
]
