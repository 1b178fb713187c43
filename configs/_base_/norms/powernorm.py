# PowerNorm (arXiv 2003.07845): a running quadratic mean, after 10,000 iterations of
# warm-up. A shorter run needs a smaller warmup_steps.
norm = dict(type='PowerNorm', requires_grad=True)
