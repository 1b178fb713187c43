"""Crop the objects of a COCO-format folder, to pre-train a backbone on them.

Writes an ImageNet-like folder: train/<class>/, val/<class>/ and lists in meta/.
"""

from ubn_mmdet.data.coco_folder import CocoFolder, CocoFolderError
from ubn_mmdet.data.image_folder import make_crops
from ubn_mmdet.mm.tools import ended_by, tool_parser
from ubn_mmdet.records import RecordError


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and crop."""
    parser = tool_parser(__doc__)
    add = parser.add_argument
    add('source', help='the COCO-format folder')
    add('folder', help='where to write the crops')
    add('--size', type=int, default=128, help='side in pixels (%(default)s)')
    add(
        '--min-size',
        type=int,
        default=16,
        help='skip objects whose box has a shorter side, in pixels (%(default)s)',
    )
    add('--max-per-class', type=int, help='crops of a class in each split (all)')
    args = vars(parser.parse_args(argv))
    with ended_by(CocoFolderError, RecordError, ValueError):
        make_crops(CocoFolder.open(args.pop('source')), **args)


if __name__ == '__main__':
    main()
