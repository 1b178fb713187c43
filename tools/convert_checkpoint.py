"""Convert a checkpoint between the layouts of BatchNorm, UBN, and UBN's authors.

The state dict is converted, "meta" is kept, and the rest (optimizer, schedule), which
would not fit any more, is left out. BatchNorm checkpoints load into UBN models as they
are; --to ubn writes the keys out.
"""

import argparse
import pickle
import sys
from pathlib import Path

from ubn_mmdet.checkpoints import layouts
from ubn_mmdet.checkpoints.files import read_checkpoint, write_checkpoint


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', type=Path, help='the checkpoint to read')
    parser.add_argument('target', type=Path, help='the file to write; must not exist')
    parser.add_argument(
        '--to',
        choices=('ubn', 'bn'),
        required=True,
        help='ubn takes BatchNorm layers; bn works where it is exact',
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
    parser.add_argument('--kernel-size', type=int, default=3, help='of UBN (3)')
    parser.add_argument(
        '--trust',
        action='store_true',
        help='unpickle arbitrary objects: for training checkpoints from a source that '
        'you trust, which may run code',
    )
    return parser.parse_args()


def main() -> None:
    """Read, convert, write; nothing is written unless all of it can be."""
    args = parse_args()
    try:
        checkpoint = read_checkpoint(args.source, trust=args.trust)
        state = checkpoint['state_dict']
        if args.authors:
            state = layouts.authors_to_ubn(state)
        if args.backbone:
            state, unplaced = layouts.torchvision_to_backbone(state)
            if unplaced:
                print(f'no place in a backbone, left out: {", ".join(unplaced)}')
        if args.to == 'bn':
            state = layouts.ubn_to_batchnorm(state)
        elif not args.authors:
            state = layouts.batchnorm_to_ubn(state, args.kernel_size)
        write_checkpoint(args.target, checkpoint | {'state_dict': state})
    except pickle.UnpicklingError as error:
        sys.exit(f'{args.source} holds more than tensors (--trust reads it): {error}')
    except (OSError, ValueError) as error:
        sys.exit(f'convert_checkpoint: {error}')
    print(f'{args.target}: {len(layouts.norm_prefixes(state))} norm layers')


if __name__ == '__main__':
    main()
