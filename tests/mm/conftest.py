"""What tests with the toolbox have."""

from functools import cache

from mmengine.config import utils

# For every config that inherits from MMDetection, MMEngine reads the metafiles of all its
# models, a third of a second. They do not change.
utils.load = cache(utils.load)
