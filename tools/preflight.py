"""Check two configs that are to be compared, before a run is spent on them.

Builds both on the CPU. Lists what differs beside the norm; rate and decay of every tensor
of a norm; how large features and logits are at the start; layers that start with an output
of 0; weights of another norm; a learning rate for another batch; missing precautions. With
--images, forecasts from training images which gates will close.

A refusal is of a run whose result would be worth nothing: the exit status is 1 then, and if
a config cannot be built. A warning is of a difference that may be meant, and leaves it 0.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ubn_mmdet.files import write_whole
from ubn_mmdet.mm.toolbox import ToolboxError, require_toolbox
from ubn_mmdet.mm.tools import add_cfg_options


def parse_args() -> argparse.Namespace:
    """The command line; --help tells."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs=2, metavar='CONFIG', help='the baseline first')
    parser.add_argument(
        '--world', type=int, default=1, help='processes of a training (%(default)s)'
    )
    parser.add_argument(
        '--images',
        type=int,
        default=0,
        help='training images to forecast gates from; a few hundred will do (none)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        help='the manifest, a json file (work_dirs/preflight/<its id>.json)',
    )
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    """Print each finding and the verdict."""
    args = parse_args()
    try:
        require_toolbox()
        from ubn_mmdet.mm.preflight import Side, preflight

        a, b = (
            Side(name, read(name, path, args.cfg_options or {}))
            for name, path in zip('AB', args.configs, strict=True)
        )
        manifest = preflight(a, b, args.world, args.images)
    except (OSError, KeyError, ToolboxError, TypeError, ValueError) as error:
        sys.exit(f'preflight: {error}')
    for finding in manifest['findings']:
        print('{level:8} {where}: {what}'.format(**finding))
    out = args.out or Path(f'work_dirs/preflight/{manifest["id"]}.json')
    write_whole(out, json.dumps(manifest, indent=1).encode() + b'\n')
    levels = [finding['level'] for finding in manifest['findings']]
    counts = ', '.join(f'{levels.count(n)} {n}s' for n in ('refusal', 'warning'))
    print(f'{manifest["verdict"]}: {counts}; {out}')
    if manifest['verdict'] == 'refusal':
        sys.exit(1)


def read(name: str, path: str, options: dict) -> Any:
    """The config of a side, which is told."""
    from mmengine.config import Config

    print(f'{name}: {path}', flush=True)
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(options)
    return cfg


if __name__ == '__main__':
    main()
