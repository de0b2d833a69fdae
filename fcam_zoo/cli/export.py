"""fcam-zoo export"""

from __future__ import annotations

import argparse
from pathlib import Path

from .._catalog import OPSET
from ._arguments import add_classifier_argument, add_model_argument


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'export',
        description='Export a model to one ONNX file for normalized images (B,C,H,W) of any batch and image size. The '
        'outputs are class logits (B,K) and the F-CAM (B,H,W) in [0,1]; the metadata hold mean, std, input size, class '
        'names and threshold. The file is compared with the model in onnxruntime before it is kept.',
        epilog='Example: fcam-zoo export --model fcam_mobilenetv1_075_cub50 -o cub50.onnx',
    )
    add_model_argument(parser)
    add_classifier_argument(parser)
    parser.add_argument('-o', '--output', required=True, type=Path, metavar='FILE.onnx', help='file to write')
    parser.add_argument(
        '--size', type=int, nargs='+', metavar='PIXELS', help="side, or height and width (default: the model's size)"
    )
    parser.add_argument('--static', action='store_true', help='accept one image of this size only')
    parser.add_argument('--opset', type=int, default=OPSET, help=f'ONNX opset (default: {OPSET})')
    parser.add_argument('--quiet', action='store_true', help='print errors only')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..export import to_onnx
    from ..models import create_model

    size = args.size[0] if args.size and len(args.size) == 1 else args.size
    model = create_model(args.model, pretrained=True, backbone_checkpoint=args.backbone_checkpoint)
    done = to_onnx(model, args.output, size=size, dynamic=not args.static, opset=args.opset)
    if not args.quiet:
        shapes = ', '.join('x'.join(map(str, shape)) for shape in done.shapes)
        print(f'verified with onnxruntime at {shapes}: largest difference from the model {done.difference:.1e}')
        print(f'{done.path}: {done.size / 2**20:.1f} MB')
    return 0
