"""Print how large the features of a detector are, level by level."""

import argparse
import sys

from ubn_mmdet.mm.toolbox import ToolboxError, require_toolbox
from ubn_mmdet.mm.tools import add_cfg_options


def main() -> None:
    """Print a line for the backbone and one for the neck."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help="a detector's or a classifier's; default: fresh weights, seed 0",
    )
    parser.add_argument('--size', type=int, default=160, help='pixels (%(default)s)')
    parser.add_argument(
        '--images', type=int, default=4, help='how many (default: %(default)s)'
    )
    parser.add_argument('--folder', help='of images (default: noise)')
    add_cfg_options(parser)
    args = parser.parse_args()
    try:
        require_toolbox()
    except ToolboxError as error:
        sys.exit(f'feature_scale: {error}')
    from ubn_mmdet.mm.feature_scale import feature_scale

    scales = feature_scale(
        args.config,
        args.checkpoint,
        args.size,
        args.images,
        args.folder,
        args.cfg_options,
    )
    for part, levels in scales.items():
        print(f'{part}: {", ".join(f"{level:.3f}" for level in levels)}')


if __name__ == '__main__':
    main()
