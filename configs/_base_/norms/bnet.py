# BNET (arXiv 2011.14150), by UBN's switches: the 3x3 affine alone, at UBN's authors' start.
norm = dict(
    type='UBN',
    centering=False,
    scaling=None,
    condensation_threshold=None,
    initial_weight=0,
    initial_spatial='kaiming',
    requires_grad=True,
)
