"""The preflight of a comparison: each norm against the baseline, before the first run."""

import json
from pathlib import Path
from pickle import UnpicklingError

from ...files import write_whole
from ...mm.preflight import Side, preflight
from ..spec import Comparison, Norm, Run, SpecError
from .configs import resolve
from .task import Folder


def check_norms(
    comparison: Comparison, folder: Folder, place: Path
) -> dict[str, dict[str, str]]:
    """Check the configs of the norms' first runs.

    Args:
        comparison: What to check.
        folder: Its data.
        place: Where to leave a manifest for each norm.

    Returns:
        For each norm but the baseline ``{'id', 'summary'}``: of the manifest, and a line.

    Raises:
        SpecError: For a refusal, and for a norm whose model cannot be built.
    """
    names = comparison.norm_names()
    baseline = next((contrast.baseline for contrast in comparison.primary), 'BN')
    runs: dict[str, Run] = {}
    for run in comparison.runs():
        runs.setdefault(run.norm.name, run)
    # Where BatchNorm's runs are another comparison's, it is beside them all the same.
    runs.setdefault(baseline, Run(Norm.read(baseline), runs[names[0]].seed))

    def side(name: str) -> Side:
        cfg = resolve(comparison, runs[name], folder)
        # What a run of a comparison has anyway (hooks.WatchHook).
        watch = {'type': 'CheckInvalidLossHook'}
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), watch]
        try:
            return Side(name, cfg)
        except UnpicklingError as error:
            raise SpecError(f'weights of {name} cannot be read: {error}') from error
        except Exception as error:  # whatever the classes of a model raise
            what = f'{type(error).__name__}: {error}'
            raise SpecError(f'{name} cannot be built: {what}') from error

    checked: dict[str, dict[str, str]] = {}
    others = [name for name in names if name != baseline]
    if not others:
        return checked
    of_baseline = side(baseline)
    for name in others:
        manifest = preflight(of_baseline, side(name), comparison.processes)
        path = place / f'{name}.json'
        write_whole(path, json.dumps(manifest, indent=1).encode())
        found = manifest['findings']
        if refusals := [f for f in found if f['level'] == 'refusal']:
            first = '{where}: {what}'.format(**refusals[0])
            raise SpecError(f'the preflight of {name} refuses it ({path}): {first}')
        warnings = dict.fromkeys(f['where'] for f in found if f['level'] == 'warning')
        summary = f'warnings about {", ".join(warnings)}' if warnings else 'no warnings'
        summary = f'Preflight of {name} beside {baseline}: {summary} ({path})'
        checked[name] = {'id': manifest['id'], 'summary': summary}
    return checked
