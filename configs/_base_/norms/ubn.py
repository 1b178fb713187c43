# UBN with the paper's initialisation: no output but the kernel's.
norm = dict(type='UBN', initial_weight=0, initial_spatial='kaiming', requires_grad=True)
