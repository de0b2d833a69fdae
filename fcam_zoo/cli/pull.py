"""fcam-zoo pull"""

from __future__ import annotations

import argparse

from .. import hub


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'pull',
        help='download a model and verify it',
        description='Download a released model, or a repository of the Hub, into the cache; check size and SHA-256; '
        "print where it lies. HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are those of the Hub's client.",
    )
    parser.add_argument('name', help='a released name, or org/name, also with @revision')
    parser.add_argument('--cache-dir', help="folder of downloads (default: that of the Hub's client)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    print(hub.pull(args.name, cache_dir=args.cache_dir))
    return 0
