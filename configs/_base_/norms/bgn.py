# Batch Group Normalization (arXiv 2012.02782). 32 groups of whole maps: every layer of the
# ResNets, FPN and heads here has a multiple of 32 channels.
norm = dict(type='BGN', num_groups=32, requires_grad=True)
