# The second main experiment (docs/protocol.md): three classes of blood cells, only boxes.
data = 'data/bccd'
detector = 'demo/faster-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
image_size = 192
epochs = 12
batch_size = 8
# The best rate of BN and UBN in bccd-tuning.py; BNET's largest has not been tried yet.
options = {'optim_wrapper.optimizer.lr': 0.04}
groups = [dict(norms=['BN', 'UBN', 'BNET'], seeds=range(10, 20))]
_pairs = ('UBN', 'BN'), ('BNET', 'BN'), ('UBN', 'BNET')
primary = [
    dict(norm=norm, baseline=baseline, metric='bbox_mAP') for norm, baseline in _pairs
]
