"""Settings of every test."""

import os

# The tensors of tests are small: threads would wait for each other, and, where other
# processes run beside, for long. Before torch is imported; holds for subprocesses too.
os.environ.setdefault('OMP_NUM_THREADS', '1')
