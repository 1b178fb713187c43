# UBN with the paper's initialisation, without centering.
norm = dict(
    type='UBN',
    centering=False,
    initial_weight=0,
    initial_spatial='kaiming',
    requires_grad=True,
)
