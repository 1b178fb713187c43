"""Compare a detector on several ranks with one process that has all their images.

Ranks are processes on this machine's CPU. No GPU, no data and no weights are needed. The
batches are even, uneven, padded and with an empty rank. If norm layers merge their
statistics correctly, every rank has the outputs, gradients and buffers of one process. The
tool names the first of each that differs, and by how much, and then exits with 1.
"""

import json
import sys
from pathlib import Path

from ubn_mmdet.files import write_whole
from ubn_mmdet.mm.toolbox import ToolboxError, require_toolbox
from ubn_mmdet.mm.tools import add_cfg_options, ended_by, tool_parser
from ubn_mmdet.rank_processes import RankError


def main() -> None:
    """Print the verdict on each case as it comes."""
    parser = tool_parser(__doc__)
    add = parser.add_argument
    add('config', help="the detector's config, with any norm")
    add('--ranks', type=int, default=3, help='number of ranks (%(default)s)')
    add('--image-size', type=int, default=64, help='side in pixels (%(default)s)')
    add('--out', type=Path, help='a JSON file to write all differences to')
    add_cfg_options(parser)
    args = parser.parse_args()
    settings = {
        'config': args.config,
        'ranks': args.ranks,
        'image_size': args.image_size,
        'options': args.cfg_options,
    }
    verdicts: list[dict] = []
    print(f'starting {args.ranks} ranks', flush=True)
    with ended_by(OSError, RankError, ToolboxError, TypeError, ValueError):
        require_toolbox()
        from ubn_mmdet.mm.verify_distributed import verdict_text, verify

        for verdict in verify(**settings):
            print(verdict_text(verdict), flush=True)
            verdicts.append(verdict)
            if args.out:
                record = settings | {'cases': verdicts}
                write_whole(args.out, json.dumps(record, indent=1).encode() + b'\n')
    if exempt := verdict['exempt']:
        print(
            f'{len(exempt)} buffers were compared between ranks alone, such as '
            f"{exempt[0]}: condensation_feature='flat' takes pairs of images within "
            'a rank, and one process has more of them (docs/distributed.md).'
        )
    if unreached := verdict['unreached']:
        print(
            f'{len(unreached)} norm layers follow detections and were not reached: '
            f'{", ".join(unreached)}'
        )
    if not all(verdict['is_equal'] for verdict in verdicts):
        sys.exit(1)
    print(f'{args.ranks} ranks compute what one process does.')


if __name__ == '__main__':
    main()
