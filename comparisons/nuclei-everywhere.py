# As nuclei.py, with the norm in backbone, neck and heads (docs/protocol.md, E1b). With the
# norm only in the backbone, a small initialisation also makes the neck's input small.
_base_ = 'nuclei.py'
_norm = dict(type='BN', requires_grad=True)  # the comparison replaces each
options = {
    'model.neck.norm_cfg': _norm,
    'model.roi_head.bbox_head.type': 'Shared4Conv1FCBBoxHead',
    'model.roi_head.bbox_head.conv_out_channels': 64,
    'model.roi_head.bbox_head.norm_cfg': _norm,
    'model.roi_head.mask_head.norm_cfg': _norm,
}
# Rates as in nuclei.py.
_norms = ['BN', dict(name='UBN', lr=0.02), dict(name='BNET', lr=0.02), 'GN']
groups = [dict(norms=_norms, seeds=range(10, 15))]
primary = []
