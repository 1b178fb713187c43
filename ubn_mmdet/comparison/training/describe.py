"""Checks a comparison and says what its runs are: ``python -m ... SPEC``.

Reads ``{'comparison', 'data', 'work_dir', 'code', 'directory'}`` from the file SPEC and
writes ``plan.json`` beside it. Runs with the code of the comparison, as the runs do.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from mmdet.utils import register_all_modules
from mmengine.config import Config

from ...data.coco_folder import CocoFolderError
from ...files import write_whole
from ..spec import Comparison, SpecError
from .configs import (
    config_hash,
    data_hash,
    describe,
    open_data,
    resolve,
    shared_config,
)
from .preflight import check_norms
from .run import check_code
from .task import read_folder


def main(spec_file: str) -> None:
    """Write ``plan.json``, or end with a message."""
    spec = json.loads(Path(spec_file).read_text())
    check_code(spec)
    os.chdir(spec['directory'])
    register_all_modules()
    # Runs print their configs by yapf, whose first use on a machine writes a cache, in
    # place: of two runs at once, one would read half of it.
    _ = Config().pretty_text
    try:
        comparison = Comparison.read(spec['comparison'])
        plan = make_plan(comparison, spec['data'], spec['work_dir'])
        place = Path(spec['work_dir'], 'preflight')
        plan['preflight'] = check_norms(comparison, read_folder(plan['folder']), place)
    except (CocoFolderError, SpecError, ValueError) as error:
        sys.exit(str(error))
    write_whole(Path(spec_file).with_name('plan.json'), json.dumps(plan).encode())


def make_plan(comparison: Comparison, data: str, work_dir: str) -> dict:
    """``{'folder', 'setting_hash', 'runs': [{'config_hash', 'settings'}]}``.

    Runs are in the order of ``Comparison.runs``.
    """
    folder = open_data(comparison, data, work_dir)
    data_is = data_hash(folder)

    def hash_of(cfg: Config) -> str:
        return config_hash(cfg, folder, data_is, comparison.processes)

    settings = {
        'data': Path(data).resolve().name,
        'classes': len(folder.classes),
        'train_images': folder.num_images['train'],
        'val_images': folder.num_images['val'],
    }
    return {
        'folder': asdict(folder) | {'root': str(folder.root)},
        'setting_hash': hash_of(shared_config(comparison, folder)),
        'runs': [
            {
                'config_hash': hash_of(resolve(comparison, run, folder)),
                'settings': {
                    **describe(comparison, run.norm),
                    **settings,
                    'seed': run.seed,
                },
            }
            for run in comparison.runs()
        ],
    }


if __name__ == '__main__':
    main(sys.argv[1])
