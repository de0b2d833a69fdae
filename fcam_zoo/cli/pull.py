"""fcam-zoo pull"""

from __future__ import annotations

import argparse


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'pull',
        description='Download a released model or a Hub repository into the cache, check its size and SHA-256, and '
        "print its path. The Hub's client reads HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE.",
    )
    parser.add_argument('name', help='name of a released model, or org/name, optionally with @revision')
    parser.add_argument('--cache-dir', help="download folder (default: that of the Hub's client)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from .. import hub

    print(hub.pull(args.name, cache_dir=args.cache_dir))
    return 0
