# UBN at its authors' start: no output but the kernel's.
norm = dict(type='UBN', initial_weight=0, initial_spatial='kaiming', requires_grad=True)
