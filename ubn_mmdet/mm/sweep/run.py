"""The sweep: detector after detector, each in a process of its own."""

import json
import multiprocessing
import os
import time
from collections.abc import Collection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import mmcv
import mmdet
import mmengine
import torch
from mmdet.utils import register_all_modules

from ...records import check_record
from ..quiet import hide_initialisation
from . import compare
from .configs import families
from .verdict import DIFFERS, ROUNDING, SAME, verdict


def sweep(
    out: Path,
    norm: str,
    only: Collection[str] | None,
    again: bool,
    seconds: float,
) -> int:
    """Sweep what ``out`` does not have yet; a line each on the terminal and in ``out``.

    Args:
        out: The json lines. The first is a record of the versions.
        norm: Type of the norm layer.
        only: Folders of configs, in this order; None for all.
        again: Whether those that were not found equal are done once more.
        seconds: A detector that takes longer is given up.

    Returns:
        The number of detectors that ran and differ, among those of this call.

    Raises:
        ubn_mmdet.records.RecordError: If ``out`` is of other versions or another norm.
        ValueError: If MMDetection has no such folder.
    """
    configs = families(Path(mmdet.__file__).parent / '.mim' / 'configs')
    if unknown := sorted(set(only or ()) - set(configs)):
        raise ValueError(f'no folder {", ".join(unknown)} among {", ".join(configs)}')
    rows = _claim(out, norm)
    wanted = list(only or configs)
    todo = [
        name
        for name in wanted
        if name not in rows or (again and verdict(rows[name]) not in (SAME, ROUNDING))
    ]
    register_all_modules()
    hide_initialisation('sweep')
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', '1')))
    print(f'{len(wanted)} detectors, {len(wanted) - len(todo)} of them done before')
    different = 0
    for i, name in enumerate(todo, 1):
        start = time.monotonic()
        row = {'family': name, 'config': configs[name].name}
        row |= _alone(configs[name], {'type': norm}, seconds)
        with out.open('a') as file:
            file.write(json.dumps(row) + '\n')
        took = round(time.monotonic() - start)
        print(f'[{i}/{len(todo)}] {name}: {verdict(row)} ({took} s)', flush=True)
        different += verdict(row) == DIFFERS
    return different


def _claim(out: Path, norm: str) -> dict[str, dict]:
    """The rows of ``out``, by family, the last of each; a new file gets its record."""
    record = {
        'norm': norm,
        'images': compare.IMAGES,
        'torch': torch.__version__,
        'mmengine': mmengine.__version__,
        'mmcv': mmcv.__version__,
        'mmdet': mmdet.__version__,
    }
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record) + '\n')
    first, *rows = map(json.loads, out.read_text().splitlines())
    check_record(out, first, record, 'a sweep')
    return {row['family']: row for row in rows}


def _alone(config: Path, norm: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The comparison in a fork: a crash or a leak ends with it."""
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, config, norm))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return {'skipped': f'more than {seconds / 60:g} minutes'}
        return receiver.recv()
    except EOFError:
        process.join()
        return {'failed': f'the process ended with {process.exitcode}'}
    finally:
        process.kill()
        process.join()


def _send(sender: Connection, config: Path, norm: dict[str, Any]) -> None:
    try:
        result = compare.compare(config, norm)
    except compare.NotSwept as error:
        result = {'skipped': str(error)}
    except Exception as error:  # the norm's own: reported like a difference
        result = {'failed': compare.sentence(error)}
    sender.send(result)
