"""The name of a norm layer is known under every scope of the toolbox."""

import pytest
from mmcv.cnn import build_norm_layer
from mmdet.registry import MODELS as MMDET
from mmengine.registry import MODELS, DefaultScope, Registry

from ubn_mmdet import UBN


@pytest.mark.parametrize('name', ['UBN', 'mmengine.UBN'])
@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'somebody'])
def test_it_is_built_under_every_scope(name, scope):
    somebody = Registry('model', scope='somebody', parent=MODELS)
    try:
        with DefaultScope.overwrite_default_scope(scope):
            for registry in (MODELS, MMDET, somebody):
                assert type(registry.build({'type': name, 'num_features': 4})) is UBN
            assert type(build_norm_layer({'type': name}, 4)[1]) is UBN
    finally:
        del MODELS.children['somebody']
