# The second half, with the detectors of coco_mini.py: they start from the backbones of
# coco_mini-pretraining.py, whose stem and first stage stay as they are, as do the
# statistics of all norm layers.
_runs = 'work_dirs/comparisons/coco_mini-pretraining/resnet18_1xb64_crops'


def _pretrained(name):
    start = dict(
        _delete_=True,
        type='Pretrained',
        prefix='backbone.',
        checkpoint=f'{_runs}/{name}/seed0/final.pth',
    )
    return dict(name=name, options={'model.backbone.init_cfg': start})


data = 'data/coco_mini'
detector = 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
classes = 10
train_images = 1000
image_size = 160
epochs = 12
batch_size = 8
groups = [
    dict(norms=[_pretrained(name) for name in ('BN', 'UBN', 'BNET')], seeds=range(2))
]
options = {'model.backbone.norm_eval': True, 'model.backbone.frozen_stages': 1}
