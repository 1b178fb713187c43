# L2BN (arXiv 2207.02625): samples are scaled to one L2 norm before BatchNorm.
norm = dict(type='L2BN', requires_grad=True)
