"""Convert a checkpoint between the layouts of BatchNorm, its family, and UBN's authors.

--to deploy folds the norm layers of a detector into its convolutions, for inference. It
also writes a config that loads the result. docs/deploy.md shows how to use the two.

The tool converts the state dict, keeps "meta", and drops the rest (optimizer, schedule),
which would no longer fit. A BatchNorm checkpoint needs no conversion: every layer but BGN
loads it as it is.
"""

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path

from ubn_mmdet.checkpoints import layouts
from ubn_mmdet.checkpoints.files import check_new, read_checkpoint, write_checkpoint
from ubn_mmdet.files import write_whole
from ubn_mmdet.layers import BGN, FAMILY
from ubn_mmdet.layers.pipeline import PipelineNorm
from ubn_mmdet.mm.toolbox import ToolboxError, require_toolbox
from ubn_mmdet.mm.tools import ended_by, tool_parser

MEMBERS: dict[str, Callable[..., PipelineNorm]] = {
    member.__name__.lower(): member
    for member in FAMILY
    if member is not BGN  # its statistics are of groups: no BatchNorm's fit
}


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = tool_parser(__doc__)
    parser.add_argument('source', type=Path, help='the checkpoint to read')
    parser.add_argument('target', type=Path, help='the file to write; must not exist')
    parser.add_argument(
        '--to',
        choices=('bn', 'ubn', 'deploy'),
        required=True,
        help="bn: if that is exact; ubn: from the authors' keys; deploy: fold what can be "
        'folded exactly, and name the rest',
    )
    parser.add_argument(
        '--config', type=Path, help="with --to deploy: the source's config"
    )
    parser.add_argument(
        '--from',
        dest='source_norm',
        choices=tuple(MEMBERS),
        default='ubn',
        help='with --to bn: the norm of the source (%(default)s)',
    )
    parser.add_argument(
        '--authors',
        action='store_true',
        help="the source has the UBN authors' keys (center_weight, bnconv.weight, ...)",
    )
    parser.add_argument(
        '--backbone',
        action='store_true',
        help="the source is a torchvision-style ResNet; make it a detector's backbone",
    )
    parser.add_argument(
        '--trust',
        action='store_true',
        help='unpickle any object, which can run code: only for checkpoints from a source '
        'that you trust. Training checkpoints need it',
    )
    args = parser.parse_args()
    if (args.to == 'deploy') != (args.config is not None):
        parser.error('--to deploy and --config go together')
    if args.to == 'ubn' and not args.authors:
        parser.error(
            '--to ubn needs --authors: UBN loads a BatchNorm checkpoint as it is'
        )
    return args


def write_folded(args: argparse.Namespace, checkpoint: dict) -> None:
    """Fold a detector; write its weights and, beside them, its config."""
    require_toolbox()
    from ubn_mmdet.mm.deploy import fold_checkpoint

    config = args.target.with_suffix('.py')
    check_new(config)
    cfg, folded, report = fold_checkpoint(args.config, checkpoint)
    write_checkpoint(args.target, folded)
    write_whole(config, cfg.pretty_text.encode())
    print(report)
    print(f'{args.target}, {config}')


def main() -> None:
    """Read, convert, write; nothing is written unless all of it can be."""
    args = parse_args()
    with ended_by(OSError, RuntimeError, ToolboxError, ValueError):
        try:
            checkpoint = read_checkpoint(args.source, trust=args.trust)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f'{args.source} holds more than tensors (--trust reads it): {error}'
            ) from error
        state = checkpoint['state_dict']
        if args.authors:
            state = layouts.authors_to_ubn(state)
        if args.backbone:
            state, unplaced = layouts.torchvision_to_backbone(state)
            if unplaced:
                print(f'no place in a backbone, left out: {", ".join(unplaced)}')
        if args.to == 'deploy':
            write_folded(args, checkpoint | {'state_dict': state})
            return
        if args.to == 'bn':
            stages = MEMBERS[args.source_norm](1).stages
            state = layouts.to_batchnorm(state, stages)
        write_checkpoint(args.target, checkpoint | {'state_dict': state})
    print(f'{args.target}: {len(layouts.norm_prefixes(state))} norm layers')


if __name__ == '__main__':
    main()
