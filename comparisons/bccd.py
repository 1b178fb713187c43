# The second main experiment (docs/protocol.md): three classes of blood cells, only boxes.
data = 'data/bccd'
detector = 'demo/faster-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
image_size = 192
epochs = 12
batch_size = 8
# Each norm has its best rate in bccd-tuning.py.
lr = 0.04
_norms = ['BN', 'UBN', dict(name='BNET', lr=0.08)]
# How much of a difference is the rate's: exploratory.
_rates = ('BNET', 0.04), ('UBN', 0.08), ('BN', 0.02)
_at_other_rates = [
    dict(name=f'{norm}-lr-{lr}', preset=norm.lower(), lr=lr) for norm, lr in _rates
]
groups = [
    dict(norms=_norms, seeds=range(10, 20)),
    dict(norms=_at_other_rates, seeds=range(10, 15)),
]
_pairs = ('UBN', 'BN'), ('BNET', 'BN'), ('UBN', 'BNET')
primary = [
    dict(norm=norm, baseline=baseline, metric='bbox_mAP') for norm, baseline in _pairs
]
