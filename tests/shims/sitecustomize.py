"""Lets torchvision be imported beside a PyTorch that its compiled part does not fit.

With this folder on PYTHONPATH, Python runs the file as it starts. MMPreTrain imports
torchvision, whose wheels are built for CUDA's PyTorch: beside a PyTorch for the CPU their
operators do not load, and the import fails where it describes two of them. Declared, they
can be described; a call would still fail, and a classification calls neither. Where
torchvision's operators load, nothing happens.
"""

import sys
from importlib.abc import MetaPathFinder

_OPERATORS = ('nms', 'qnms')
_SIGNATURE = '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
_declared = []  # a library's operators are gone when it is


class _BeforeTheirDescription(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname == 'torchvision._meta_registrations' and not _declared:
            import torch
            from torchvision import extension

            if not extension._has_ops():
                library = torch.library.Library('torchvision', 'DEF')
                for name in _OPERATORS:
                    library.define(name + _SIGNATURE)
                _declared.append(library)
        return None  # the usual finders find it


sys.meta_path.insert(0, _BeforeTheirDescription())
