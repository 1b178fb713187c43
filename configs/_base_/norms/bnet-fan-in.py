# BNET whose random kernel keeps the variance.
norm = dict(type='BNET', initial_weight=0, initial_spatial='fan_in', requires_grad=True)
