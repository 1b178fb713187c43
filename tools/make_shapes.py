"""Draw the demo's generated data set in COCO format."""

import argparse
import sys

from ubn_mmdet.data.shapes import make_shapes
from ubn_mmdet.records import RecordError


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('folder', help='where to write the data set')
    parser.add_argument('--train', type=int, default=400, help='training images')
    parser.add_argument('--val', type=int, default=100, help='validation images')
    parser.add_argument('--size', type=int, default=160, help='side in pixels')
    parser.add_argument('--seed', type=int, default=0, help='seed of the drawing')
    args = parser.parse_args(argv)
    try:
        make_shapes(args.folder, args.train, args.val, args.size, args.seed)
    except (ValueError, RecordError) as error:
        sys.exit(f'make_shapes: {error}')


if __name__ == '__main__':
    main()
