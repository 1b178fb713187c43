"""Print how large the features of a detector are, level by level, for images of noise."""

import argparse

from ubn_mmdet.mm.feature_scale import feature_scale


def main() -> None:
    """Print a line for the backbone and one for the neck."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('checkpoint', nargs='?', help='default: fresh weights, seed 0')
    parser.add_argument('--size', type=int, default=160, help='pixels (%(default)s)')
    args = parser.parse_args()
    scales = feature_scale(args.config, args.checkpoint, args.size)
    for part, levels in scales.items():
        print(f'{part}: {", ".join(f"{level:.3f}" for level in levels)}')


if __name__ == '__main__':
    main()
