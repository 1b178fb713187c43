"""Print how large the features of a detector are, level by level."""

import argparse

from mmengine.config import DictAction

from ubn_mmdet.mm.feature_scale import feature_scale


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
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help="settings of the config to override, key=value as in MMDetection's tools",
    )
    args = parser.parse_args()
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
