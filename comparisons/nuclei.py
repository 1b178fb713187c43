# Does UBN beat BatchNorm, and if so, by what? From scratch, on one class of small objects.
data = 'data/nuclei'
detector = 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
image_size = 160
epochs = 6
batch_size = 8
# UBN's random kernel beside BatchNorm's weight: nothing starts small.
_unit = dict(
    name='UBN-weight-1',
    preset='ubn',
    options={'model.backbone.norm_cfg.initial_weight': 1},
)
groups = [
    dict(norms=['BN', 'UBN', 'BNET'], seeds=range(5)),
    # Start or structure: BatchNorm with a small weight, UBN from BatchNorm's start, and
    # UBN's parts alone.
    dict(norms=['BN-small', 'UBN-from-BN', 'UBN-no-gate', 'RBN'], seeds=range(3)),
    dict(norms=[_unit], seeds=range(3)),
]
