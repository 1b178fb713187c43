# As nuclei.py, with two images a step and the learning rate that goes with them.
_base_ = 'nuclei.py'
batch_size = 2
groups = [dict(norms=['BN', 'UBN'], seeds=range(3))]
options = {'optim_wrapper.optimizer.lr': 0.005}
