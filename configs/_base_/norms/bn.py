# BatchNorm.
norm = dict(type='BN', requires_grad=True)
