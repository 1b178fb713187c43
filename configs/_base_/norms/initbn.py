# BatchNorm whose weight starts at 0.1 (ECCV 2022, arXiv 2110.13989). The method has a
# learning rate of its own for that weight, and no decay of norms and biases:
# optim_wrapper = dict(constructor='InitBNOptimWrapperConstructor').
norm = dict(type='InitBN', requires_grad=True)
