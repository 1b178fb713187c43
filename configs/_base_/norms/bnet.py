# BNET (arXiv 2011.14150), at the paper's initialisation: the 3x3 affine alone.
norm = dict(
    type='BNET', initial_weight=0, initial_spatial='kaiming', requires_grad=True
)
