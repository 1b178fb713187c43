"""Checks two configs that are to be compared, before a run is spent on them."""

import hashlib
import json
from importlib import import_module

from ...layers.checks import check_count
from ...version import __version__
from .checks import CHECKS
from .finding import LEVELS, NOTE, VERDICTS
from .gates import forecast_gates
from .side import Side

__all__ = ['Side', 'preflight']


def preflight(a: Side, b: Side, world: int = 1, images: int = 0) -> dict:
    """Check two sides of a comparison.

    Args:
        a: The baseline.
        b: What is compared with it.
        world: Processes that each will train on.
        images: Training images to forecast the gates from; 0 for no forecast.

    Returns:
        What json is to keep: ``verdict`` (one of ``VERDICTS``), ``findings``
        (:class:`~.finding.Finding`, as dicts), what they are of, and ``id``, a hash of all
        that.

    Raises:
        TypeError, ValueError: If a number is not one of those.
    """
    check_count('world', world)
    if images:
        check_count('images', images)
    findings = [finding for check in CHECKS for finding in check(a, b, world)]
    for side in (a, b) if images else ():
        findings += forecast_gates(side, images)
    levels = [finding.level for finding in findings]
    packages = 'torch', 'mmengine', 'mmcv', *dict.fromkeys((a.scope, b.scope))
    versions = {name: import_module(name).__version__ for name in packages}
    manifest = {
        'verdict': VERDICTS[max(levels, key=LEVELS.index, default=NOTE)],
        'configs': [side.description for side in (a, b)],
        'world': world,
        'images': images,
        'versions': {'ubn_mmdet': __version__, **versions},
        'findings': [finding._asdict() for finding in findings],
    }
    content = json.dumps(manifest, sort_keys=True).encode()
    return {'id': hashlib.sha256(content).hexdigest()[:16], **manifest}
