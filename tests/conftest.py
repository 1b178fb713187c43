"""What every test has."""

import os
from contextlib import suppress

import pytest

# The tensors of tests are small: threads would wait for each other, and, where other
# processes run beside, for long. Before torch is imported; holds for subprocesses too.
os.environ.setdefault('OMP_NUM_THREADS', '1')

# Triton asks when it is first imported: without a GPU, its interpreter runs the kernels.
if not os.path.exists('/dev/nvidiactl'):
    os.environ.setdefault('TRITON_INTERPRET', '1')

with suppress(ImportError):  # in an environment with PyTorch alone
    from hypothesis import HealthCheck, Phase, settings

    # The same examples each time; nothing depends on how long they take.
    settings.register_profile(
        'tests',
        max_examples=60,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )
    # Others each time, and many.
    settings.register_profile(
        'search',
        settings.get_profile('tests'),
        max_examples=5000,
        derandomize=False,
        print_blob=True,
    )
    settings.load_profile('tests')


@pytest.fixture(autouse=True)
def _seeded():
    """What a test draws at random is the same whichever tests run before it."""
    import torch  # not before the variables above are set

    torch.manual_seed(0)


@pytest.fixture(scope='session')
def two_ranks(tmp_path_factory):
    """Two gloo processes."""
    from helpers.ranks import Ranks  # imports torch

    ranks = Ranks(2, tmp_path_factory.mktemp('ranks'))
    yield ranks
    ranks.close()
