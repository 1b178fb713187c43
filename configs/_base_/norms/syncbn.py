# BatchNorm with the statistics of all GPUs; on one process it is BatchNorm.
norm = dict(type='SyncBN', requires_grad=True)
