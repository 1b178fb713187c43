# MABN (ICLR 2020) for small batches: averages over 16 of them. The paper centres the
# convolutions' weights as well: conv_cfg=dict(type='CentralizedConv2d') beside norm_cfg.
norm = dict(type='MABN', requires_grad=True)
