"""The same initial values for everything that detectors of different norms share.

What a detector draws for its weights depends on what its norm layers drew before. So all
take them from the same place: the detector with BatchNorm, built from the run's seed.
"""

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader, set_random_seed
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from .configs import replace_norm


def shared_start(cfg: Config, seed: int) -> dict[str, Tensor]:
    """Initial values of all parameters and buffers outside norm layers, by name.

    Components that load pre-trained weights themselves are left out. What the config's
    ``load_from`` has takes the place of what was drawn, in norm layers too.
    """
    init_default_scope(cfg.default_scope)
    set_random_seed(seed)
    model = MODELS.build(replace_norm(cfg, {'type': 'BN', 'requires_grad': True}))
    model.init_weights()
    own = [
        f'{name}.' for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) or _is_pretrained(layer)
    ]  # fmt: skip
    start = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith(tuple(own))
    }
    if cfg.get('load_from'):
        loaded = CheckpointLoader.load_checkpoint(cfg.load_from, map_location='cpu')
        for name, value in loaded.get('state_dict', loaded).items():
            # Heads of other classes do not fit; the toolbox passes over them as well.
            if name not in start or start[name].shape == value.shape:
                start[name] = value
    return start


def _is_pretrained(layer: torch.nn.Module) -> bool:
    init_cfg = getattr(layer, 'init_cfg', None)
    configs = init_cfg if isinstance(init_cfg, list) else [init_cfg]
    return any(c is not None and c.get('type') == 'Pretrained' for c in configs)
