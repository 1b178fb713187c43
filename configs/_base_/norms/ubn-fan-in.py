# UBN whose random kernel keeps the variance, where the paper's makes outputs small.
norm = dict(type='UBN', initial_weight=0, initial_spatial='fan_in', requires_grad=True)
