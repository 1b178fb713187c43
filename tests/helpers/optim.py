"""What an optimizer does with the parameters of a model."""


def groups_of(net, wrapper):
    """``(lr, weight_decay)`` by the parameter's name."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    found = {}
    for group in wrapper.optimizer.param_groups:
        for parameter in group['params']:
            found[names[id(parameter)]] = group['lr'], group['weight_decay']
    return found
