"""Draw the demo's generated data set in COCO format."""

import argparse

from ubn_mmdet.data.shapes import make_shapes
from ubn_mmdet.mm.tools import ended_by
from ubn_mmdet.records import RecordError


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add('folder', help='where to write the data set')
    add('--train', type=int, default=400, help='training images')
    add('--val', type=int, default=100, help='validation images')
    add('--size', type=int, default=160, help='side in pixels')
    add('--seed', type=int, default=0, help='seed of the drawing')
    args = parser.parse_args(argv)
    with ended_by(ValueError, RecordError):
        make_shapes(args.folder, args.train, args.val, args.size, args.seed)


if __name__ == '__main__':
    main()
