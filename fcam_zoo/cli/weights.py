"""fcam-zoo weights"""

from __future__ import annotations

import argparse

from .. import _index, hub
from ..errors import FcamZooError
from ..hub.release import release
from ..models.factory import full_name


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'weights', help='released and downloaded weights', description='Released and downloaded weight files.'
    )
    actions = parser.add_subparsers(required=True, metavar='ACTION')
    verify = actions.add_parser('verify', help='compare size and SHA-256 of the files with the index')
    verify.add_argument('names', nargs='*', help='default: all that are on this machine')
    verify.set_defaults(run=run_verify)
    listing = actions.add_parser('list', help='released weights and where they lie, and other downloads')
    listing.set_defaults(run=run_list)
    path = actions.add_parser('path', help='print where verified weights lie; downloads nothing')
    path.add_argument('name', help='a released name')
    path.set_defaults(run=run_path)
    prune = actions.add_parser('prune', help='remove downloads that neither a branch nor the index needs any more')
    prune.add_argument('--all', action='store_true', dest='everything', help='remove every download of an F-CAM')
    prune.add_argument('--dry-run', action='store_true', help='only say what would go')
    prune.set_defaults(run=run_prune)
    for action in (verify, listing, path, prune):
        action.add_argument('--cache-dir', help="folder of downloads (default: that of the Hub's client)")
    add = actions.add_parser(
        'add',
        help='release a finished training (maintainers)',
        description='Measure RUN/best and RUN/last on val and test, store the best one in float16 in the weights '
        'folder and write its index entry. Then: python -m fcam_zoo.hub.card',
    )
    add.add_argument('run_dir', help='folder of a finished training')
    add.add_argument('name', help='fcam_<backbone>.<teacher>_<dataset>')
    add.add_argument('--base', required=True, help='timm name of the weights the backbone started from')
    add.add_argument('--quiet', action='store_true', help='no progress bar')
    add.set_defaults(run=run_add)


def run_verify(args: argparse.Namespace) -> int:
    failed = 0
    for name in map(full_name, args.names or hub.index()):
        try:
            if not args.names and _index.local_path(name, args.cache_dir) is None:
                print(f'{name}: not downloaded')
                continue
            path = hub.verify(name, args.cache_dir)
            print(f'{name}: ok ({path.stat().st_size / 2**20:.1f} MB)')
        except FcamZooError as e:
            failed += 1
            print(f'{name}: FAILED: {e}')
    return 1 if failed else 0


def run_list(args: argparse.Namespace) -> int:
    for name, entry in hub.index().items():
        where = _index.local_path(name, args.cache_dir) or f'not downloaded, on the Hub: {entry.hf_hub_id}'
        print(f'{name}  {entry.size / 2**20:.1f} MB  {where}')
    for download in hub.downloads(args.cache_dir):
        print(f'hf-hub:{download.repo_id}@{download.commit}  {download.size / 2**20:.1f} MB  downloaded')
    return 0


def run_path(args: argparse.Namespace) -> int:
    print(hub.verify(args.name, args.cache_dir))
    return 0


def run_prune(args: argparse.Namespace) -> int:
    gone, freed = hub.prune(args.cache_dir, everything=args.everything, dry_run=args.dry_run)
    for download in gone:
        print(f'{"would remove" if args.dry_run else "removed"} {download.repo_id}@{download.commit}')
    print(f'{freed / 2**20:.1f} MB {"would be " if args.dry_run else ""}freed')
    return 0


def run_add(args: argparse.Namespace) -> int:
    entry = release(args.run_dir, args.name, args.base, args.quiet)
    print(f'{entry.file}: {entry.size:,} bytes')
    return 0
