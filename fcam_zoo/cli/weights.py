"""fcam-zoo weights"""

from __future__ import annotations

import argparse

from .._io import one_line
from ..errors import FcamZooError


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser('weights', description='List, verify and remove weight files.')
    actions = parser.add_subparsers(required=True, metavar='ACTION')
    verify = actions.add_parser('verify', help='compare size and SHA-256 of the files with the index')
    verify.add_argument('names', nargs='*', help='released models (default: all that are on this machine)')
    verify.set_defaults(run=run_verify)
    listing = actions.add_parser('list', help='list released weights with their paths, and other downloads')
    listing.set_defaults(run=run_list)
    path = actions.add_parser('path', help='print the path of verified weights; downloads nothing')
    path.add_argument('name', help='name of a released model')
    path.set_defaults(run=run_path)
    prune = actions.add_parser('prune', help='remove downloads that no branch, tag or release uses')
    prune.add_argument('--all', action='store_true', dest='everything', help='remove all downloaded F-CAMs')
    prune.add_argument('--dry-run', action='store_true', help='only list what would be removed')
    prune.set_defaults(run=run_prune)
    for action in (verify, listing, path, prune):
        action.add_argument('--cache-dir', help="download folder (default: that of the Hub's client)")


def run_verify(args: argparse.Namespace) -> int:
    from .. import _index, hub
    from ..models.names import full_name

    failed = 0
    for name in map(full_name, args.names or hub.index()):
        try:
            if not args.names and _index.local_path(hub.index()[name], args.cache_dir) is None:
                print(f'{name}: not downloaded')
                continue
            path = hub.verify(name, args.cache_dir)
            print(f'{name}: ok ({path.stat().st_size / 2**20:.1f} MB)')
        except FcamZooError as e:
            failed += 1
            print(f'{one_line(name, 100)}: FAILED: {one_line(str(e))}')
    return 1 if failed else 0


def run_list(args: argparse.Namespace) -> int:
    from .. import _index, hub

    for name, entry in hub.index().items():
        where = _index.local_path(entry, args.cache_dir) or f'not downloaded, on the Hub: {entry.hf_hub_id}'
        print(f'{name}  {entry.size / 2**20:.1f} MB  {where}')
    for download in hub.downloads(args.cache_dir):
        print(f'hf-hub:{download.repo_id}@{download.commit}  {download.size / 2**20:.1f} MB  downloaded')
    return 0


def run_path(args: argparse.Namespace) -> int:
    from .. import hub

    print(hub.verify(args.name, args.cache_dir))
    return 0


def run_prune(args: argparse.Namespace) -> int:
    from .. import hub

    removed, freed = hub.prune(args.cache_dir, everything=args.everything, dry_run=args.dry_run)
    for download in removed:
        print(f'{"would remove" if args.dry_run else "removed"} {download.repo_id}@{download.commit}')
    print(f'{freed / 2**20:.1f} MB {"would be " if args.dry_run else ""}freed')
    return 0
