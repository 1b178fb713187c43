"""Groups of ranks that merge, where not all ranks of the world come by."""

import pytest
import torch
from helpers.layers import images, trained
from helpers.ranks import Ranks


def forward(x):
    """One rank's forward; a rank without a batch skips the layer."""
    return None if x is None else trained(sync_group_size=2)(x).detach()


@pytest.mark.slow
def test_ranks_that_skip_a_layer_do_not_keep_other_groups_waiting(tmp_path):
    ranks = Ranks(4, tmp_path)
    xs = [images(2, 3, 4, 4, seed=seed) for seed in range(2)]
    ys = ranks.run(forward, [None, None, *xs])
    ranks.close()
    assert ys[:2] == [None, None]
    torch.testing.assert_close(torch.cat(ys[2:]), trained()(torch.cat(xs)).detach())
