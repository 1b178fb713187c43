# JSNorm (arXiv 2312.00313): BatchNorm whose mean and variance are James-Stein estimates.
norm = dict(type='JSNorm', requires_grad=True)
