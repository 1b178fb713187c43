# As nuclei-pretrained-live.py, with stem and first stage frozen and all statistics held, as
# in the paper's protocol (docs/protocol.md, E6).
_base_ = 'nuclei-pretrained-live.py'
options = {'model.backbone.norm_eval': True, 'model.backbone.frozen_stages': 1}
