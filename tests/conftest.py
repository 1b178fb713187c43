"""What every test has."""

import os

import pytest

# The tensors of tests are small: threads would wait for each other, and, where other
# processes run beside, for long. Before torch is imported; holds for subprocesses too.
os.environ.setdefault('OMP_NUM_THREADS', '1')


@pytest.fixture(scope='session')
def two_ranks(tmp_path_factory):
    """Two gloo processes."""
    from helpers.ranks import Ranks  # imports torch

    ranks = Ranks(2, tmp_path_factory.mktemp('ranks'))
    yield ranks
    ranks.close()
