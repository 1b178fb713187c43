"""What OpenMMLab's own last releases cannot do; docs/compatibility.md lists it."""

import pytest

from ubn_mmdet.mm.toolbox import MMENGINE, installed

STOCK_MMENGINE = [name for name, _ in installed(MMENGINE)] == ['mmengine']

dumps_no_class = pytest.mark.xfail(
    STOCK_MMENGINE,
    reason="mmengine 0.10.7 cannot write a config down that has a class for a 'type'",
    raises=SyntaxError,
    strict=True,
)
