"""MMEngine's hook that averages buffers over ranks has nothing to do for UBN."""

import copy

import torch
from helpers.layers import images, trained
from mmengine.hooks import SyncBuffersHook


def average_buffers(task):
    """One rank's part: a step of training, and what the hook makes of its state."""
    layer, x = task
    layer(x)
    before = copy.deepcopy(layer.state_dict())
    SyncBuffersHook().after_train_epoch(type('Runner', (), {'model': layer}))
    return before, layer.state_dict()


def test_averaging_buffers_over_ranks_changes_nothing(two_ranks):
    xs = [images(2, 3, 5, 5, seed=seed) for seed in range(2)]
    synchronised = two_ranks.run(average_buffers, [(trained(), x) for x in xs])
    alone = two_ranks.run(average_buffers, [(trained(sync=False), x) for x in xs])
    for before, after in synchronised:
        torch.testing.assert_close(after, before, rtol=0, atol=0)
    # Left to themselves, ranks drift apart, and the hook has something to do.
    torch.testing.assert_close(alone[0][1], alone[1][1], rtol=0, atol=0)
    for before, after in alone:
        for name in ('running_mean', 'running_var', 'condensation'):
            assert not torch.equal(after[name], before[name]), name
