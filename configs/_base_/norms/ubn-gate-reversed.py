# UBN with the paper's initialisation and a reversed gate: batches of dissimilar samples go
# into the statistics, batches of similar ones do not.
norm = dict(
    type='UBN',
    initial_weight=0,
    initial_spatial='kaiming',
    condensation_opens='dissimilar',
    requires_grad=True,
)
