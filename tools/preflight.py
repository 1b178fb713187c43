"""Check two configs before they are trained and compared.

Builds both on the CPU. Reports what differs besides the norm, learning rate and weight
decay of every tensor of a norm, how large features and logits are at the start, layers that
start with an output of 0, weights of another norm, a learning rate that does not fit the
batch size, and missing hooks. With --images it forecasts which gates will close.

A refusal means that the result would be worth nothing. A warning names a difference that
may be intended. The exit status is 1 after a refusal, or if a config cannot be built.
"""

import json
import sys
from pathlib import Path

from ubn_mmdet.files import write_whole
from ubn_mmdet.mm.toolbox import ToolboxError, require_toolbox
from ubn_mmdet.mm.tools import add_cfg_options, ended_by, tool_parser


def main() -> None:
    """Print each finding and the verdict."""
    parser = tool_parser(__doc__)
    add = parser.add_argument
    add('configs', nargs=2, metavar='CONFIG', help='two configs, the baseline first')
    add('--world', type=int, default=1, help='processes of a training (%(default)s)')
    add('--images', type=int, default=0, help='images to forecast gates from (none)')
    add('--out', type=Path, help='the JSON file (work_dirs/preflight/<id>.json)')
    add_cfg_options(parser)
    args = parser.parse_args()
    with ended_by(OSError, KeyError, ToolboxError, TypeError, ValueError):
        require_toolbox()
        from ubn_mmdet.mm.config_nodes import read_config
        from ubn_mmdet.mm.preflight import Side, preflight

        sides = []
        for name, path in zip('AB', args.configs, strict=True):
            print(f'{name}: {path}', flush=True)
            sides.append(Side(name, read_config(path, args.cfg_options)))
        manifest = preflight(sides[0], sides[1], args.world, args.images)
    for finding in manifest['findings']:
        print('{level:8} {where}: {what}'.format(**finding))
    out = args.out or Path(f'work_dirs/preflight/{manifest["id"]}.json')
    write_whole(out, json.dumps(manifest, indent=1).encode() + b'\n')
    levels = [finding['level'] for finding in manifest['findings']]
    counts = ', '.join(f'{levels.count(n)} {n}s' for n in ('refusal', 'warning'))
    print(f'{manifest["verdict"]}: {counts}; {out}')
    if manifest['verdict'] == 'refusal':
        sys.exit(1)


if __name__ == '__main__':
    main()
