"""Compare a detector on several ranks with one process that has all their images.

Ranks are processes of this machine's CPU, so no GPU is needed, nor are data or weights.
Each case has other batches: even, uneven, padded and with an empty rank. Norm layers that
merge their statistics right give every rank the outputs, gradients and buffers of one
process. Names the first of each that differs, and by how much; the exit status is 1 then.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ubn_mmdet.files import write_whole
from ubn_mmdet.mm.toolbox import ToolboxError, require_toolbox
from ubn_mmdet.mm.tools import add_cfg_options
from ubn_mmdet.rank_processes import RankError


def parse_args() -> argparse.Namespace:
    """The command line; --help tells."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='of the detector, with any norm')
    parser.add_argument('--ranks', type=int, default=3, help='how many (%(default)s)')
    parser.add_argument(
        '--image-size', type=int, default=64, help='pixels a side (%(default)s)'
    )
    parser.add_argument(
        '--out', type=Path, help='write all that differs there, as json'
    )
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    """Print the verdict on each case as it comes."""
    args = parse_args()
    settings = args.config, args.ranks, args.image_size, args.cfg_options
    verdicts: list = []
    print(f'starting {args.ranks} ranks', flush=True)
    try:
        require_toolbox()
        from ubn_mmdet.mm.verify_distributed import verify

        for verdict in verify(*settings):
            show(verdict)
            verdicts.append(verdict)
            if args.out:
                write(args.out, settings, verdicts)
    except (OSError, RankError, ToolboxError, TypeError, ValueError) as error:
        sys.exit(f'verify_distributed: {error}')
    last = verdicts[-1]
    if last.exempt:
        print(
            f'{len(last.exempt)} buffers were compared between ranks alone, such as '
            f"{last.exempt[0]}: condensation_feature='flat' takes pairs of images within "
            'a rank, and one process has more of them (docs/distributed.md).'
        )
    if last.unreached:
        print(
            f'{len(last.unreached)} norm layers are behind detections and were not '
            f'reached: {", ".join(last.unreached)}'
        )
    if not all(verdict.is_equal for verdict in verdicts):
        sys.exit(1)
    print(f'{args.ranks} ranks compute what one process does.')


def show(verdict: Any) -> None:
    """Print one verdict."""
    case = verdict.case
    line = f'{case.name}, {" + ".join(map(str, case.images))} images: '
    if verdict.failure:
        print(f'{line}FAILED\n{verdict.failure}', flush=True)
        return
    compared = ', '.join(f'{n} {kind}s' for kind, n in verdict.compared.items())
    line += 'equal' if verdict.is_equal else 'DIFFERS'
    line += f'; {verdict.norms} norm layers in training, {compared}, '
    print(f'{line}largest difference {verdict.largest:.1g}', flush=True)
    for difference in verdict.first():
        print(f'  first {difference}', flush=True)


def write(path: Path, settings: tuple, verdicts: list) -> None:
    """Write what is known so far."""
    names = 'config', 'ranks', 'image_size', 'options'
    record = dict(zip(names, settings, strict=True))
    record['cases'] = [verdict.record() for verdict in verdicts]
    write_whole(path, json.dumps(record, indent=1).encode() + b'\n')


if __name__ == '__main__':
    main()
