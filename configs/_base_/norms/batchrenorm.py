# Batch Renormalization (arXiv 1702.03275) with the paper's schedule: BatchNorm for 5,000
# iterations, full corrections from 40,000. A shorter run needs smaller plain_steps, d_steps
# and r_steps: until then it is BatchNorm.
norm = dict(type='BatchRenorm', requires_grad=True)
