"""fcam-zoo predict"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tqdm import tqdm

from .. import viz
from .._io import atomic_path, write_json
from ..data import list_images, open_image
from ..errors import FcamZooError
from ..localization import localize
from ..models import create_model


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'predict',
        help='boxes for images',
        description='Localize the object of each image. Writes OUT/<image>.png (heat map, box, label) and '
        'OUT/predictions.json (label, score, box x0,y0,x1,y1 in pixels of the original; ends exclusive). '
        'An unreadable image is reported and left out; the others are finished, and the exit status is 1.',
    )
    parser.add_argument('images', nargs='+', help='image files and folders')
    parser.add_argument('--model', required=True, help='a released name, local-dir:RUN/best, or hf-hub:org/name')
    parser.add_argument('-o', '--output', required=True, type=Path, help='output folder, made if needed')
    parser.add_argument('--threshold', type=float, help="tau in [0,1); default: the model's, chosen on val")
    parser.add_argument('--batch-size', type=int, default=8, help='images a forward pass (default: 8)')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.batch_size < 1:
        raise ValueError(f'--batch-size is {args.batch_size}: at least one image a forward pass')
    paths, failed = find_images(args.images)
    names = output_names(paths)
    refuse_overwriting(paths, args.output, names)
    model = create_model(args.model, pretrained=True)
    records: list[dict] = []
    with tqdm(total=len(paths), unit='image', disable=args.quiet) as bar:
        for start in range(0, len(paths), args.batch_size):
            images = []
            for path in paths[start : start + args.batch_size]:
                try:
                    images.append((path, open_image(path)))
                except (FcamZooError, OSError) as e:
                    failed += 1
                    tqdm.write(f'fcam-zoo: skipped: {e}', file=sys.stderr)
                    bar.update()
            found = localize(model, [image for _, image in images], args.threshold, batch_size=args.batch_size)
            for (path, image), result in zip(images, found):
                with atomic_path(args.output / names[path]) as temporary:
                    viz.overlay(image, result).save(temporary)
                records.append(
                    {
                        'image': str(path),
                        'label': result.label,
                        'class_index': result.class_index,
                        'score': round(result.score, 6),
                        'box': list(result.box),
                        'size': list(result.size),
                        'overlay': names[path],
                    }
                )
                bar.update()
    write_json(args.output / 'predictions.json', {'model': args.model, 'predictions': records})
    print(f'{len(records)} of {len(records) + failed} images localized: {args.output / "predictions.json"}')
    return 1 if failed else 0


def find_images(arguments: list[str]) -> tuple[list[Path], int]:
    """Image files of all arguments, and how many arguments had none; those are reported.

    Raises:
        FileNotFoundError: When nothing at all is left to do.
    """
    paths: list[Path] = []
    failed = 0
    for argument in arguments:
        try:
            paths += list_images(argument)
        except (FcamZooError, OSError) as e:
            failed += 1
            print(f'fcam-zoo: skipped: {e}', file=sys.stderr)
    if not paths:
        raise FileNotFoundError('no image to localize: give image files or folders that hold some')
    return paths, failed


def refuse_overwriting(paths: list[Path], output: Path, names: dict[Path, str]) -> None:
    """Outputs must not replace inputs.

    Raises:
        ValueError: When one would.
    """
    inputs = {path.resolve() for path in paths}
    for name in names.values():
        if (output / name).resolve() in inputs:
            raise ValueError(f'{output / name} is one of the images and would be overwritten: choose another -o folder')


def output_names(paths: list[Path]) -> dict[Path, str]:
    """A PNG name for each image, unique even where files of different folders share a name."""
    names: dict[Path, str] = {}
    used: set[str] = set()
    for path in paths:
        name, n = f'{path.stem}.png', 1
        while os.path.normcase(name) in used:
            n += 1
            name = f'{path.stem}_{n}.png'
        used.add(os.path.normcase(name))
        names[path] = name
    return names
