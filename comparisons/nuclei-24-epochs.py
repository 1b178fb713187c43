# As nuclei.py, with 8 images a step and 24 epochs (docs/protocol.md, E4): 6 epochs may be
# too few for any norm.
_base_ = 'nuclei.py'
epochs = 24
batch_size = 8
options = {'optim_wrapper.optimizer.lr': 0.04}  # for four times the images
groups = [dict(norms=['BN', 'UBN', 'BNET'], seeds=range(10, 13))]
primary = []
