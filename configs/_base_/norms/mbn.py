# Memorized BatchNorm (AAAI 2018, arXiv 2010.04947): statistics of the last 10 batches. A
# config with it also needs a second forward after each update:
# custom_hooks = [dict(type='DoubleForwardHook')].
norm = dict(type='MBN', requires_grad=True)
