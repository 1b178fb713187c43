# GroupNorm (arXiv 1803.08494), 32 groups.
norm = dict(type='GN', num_groups=32, requires_grad=True)
