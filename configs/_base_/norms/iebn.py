# Instance Enhancement BatchNorm (AAAI 2020): a gate by the sample's raw mean.
norm = dict(type='IEBN', requires_grad=True)
