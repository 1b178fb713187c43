"""Crop the objects of a COCO-format folder, to pre-train a backbone on them.

Writes an ImageNet-like folder: train/<class>/, val/<class>/ and lists in meta/.
"""

import argparse
import sys

from ubn_mmdet.data.coco_folder import CocoFolder, CocoFolderError
from ubn_mmdet.data.crops import make_crops
from ubn_mmdet.records import RecordError


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and crop."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', help='the COCO-format folder')
    parser.add_argument('folder', help='where to write the crops')
    parser.add_argument('--size', type=int, default=64, help='side in pixels (64)')
    parser.add_argument(
        '--min-size',
        type=int,
        default=16,
        help="the least shorter side of an object's box, in pixels (16)",
    )
    parser.add_argument(
        '--max-per-class',
        type=int,
        help='keep this many crops of a class in each split (default: all)',
    )
    args = parser.parse_args(argv)
    try:
        make_crops(
            CocoFolder.open(args.source),
            args.folder,
            args.size,
            args.min_size,
            args.max_per_class,
        )
    except (CocoFolderError, RecordError, ValueError) as error:
        sys.exit(f'make_crops: {error}')


if __name__ == '__main__':
    main()
