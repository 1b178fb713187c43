# As nuclei.py, with 8 images per step and 24 epochs (docs/protocol.md, E4): 6 epochs may be
# too few for any norm.
_base_ = 'nuclei.py'
epochs = 24
batch_size = 8
# Rates are four times those of nuclei.py, for four times the images.
lr = 0.04
_norms = ['BN', dict(name='UBN', lr=0.08), dict(name='BNET', lr=0.08)]
groups = [dict(norms=_norms, seeds=range(10, 13))]
primary = []
