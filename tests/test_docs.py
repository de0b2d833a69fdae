"""The documentation: the site builds without warnings, its commands parse, the messages it explains exist."""

from __future__ import annotations

import errno
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fcam_zoo.cli import build_parser

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / 'docs').rglob('*.md'))


def test_site_builds_strictly(tmp_path):
    pytest.importorskip('material')
    pytest.importorskip('mkdocstrings')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path / 'site')]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = {path.stem for path in (tmp_path / 'site').rglob('*.html')}
    assert {page.stem for page in PAGES} <= pages
    assert 'fcam_mobilenetv1_075.layercam_cub50' in (tmp_path / 'site' / 'models.html').read_text()
    for page in (tmp_path / 'site').rglob('*.html'):
        loaded = re.findall(
            r'(?:<script[^>]*src|<link[^>]*rel="stylesheet"[^>]*href|<img[^>]*src)="(https?:[^"]*)', page.read_text()
        )
        assert loaded == [], page.name


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_commands_of_a_page_parse(page):
    text = page.read_text()
    for line in re.findall(r'^fcam-zoo .*$', '\n'.join(re.findall(r'```sh\n(.*?)```', text, re.DOTALL)), re.MULTILINE):
        arguments = shlex.split(line, comments=True)[1:]
        build_parser(arguments[0]).parse_args(arguments)


def test_messages_of_the_troubleshooting_page_exist():
    source = '\n'.join(path.read_text() for path in (ROOT / 'fcam_zoo').rglob('*.py'))
    source = re.sub(r"'\s*\n\s*f?'", '', source)
    for heading in re.findall(r'^## (`.*)$', (ROOT / 'docs' / 'troubleshooting.md').read_text(), re.MULTILINE):
        for message in re.findall(r'`(.*?)`', heading):
            if message.startswith('DataLoader') or message == os.strerror(errno.ENOSPC):  # From torch, from the system
                continue
            for part in re.split(r'…|\'\w+\'', message):
                assert part.strip() in source, message
