# BNET (arXiv 2011.14150), at the paper's initialisation: only the 3x3 kernel of UBN.
norm = dict(
    type='BNET', initial_weight=0, initial_spatial='kaiming', requires_grad=True
)
