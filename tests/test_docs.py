"""The documentation: the site builds without warnings, its commands parse, the messages it explains exist."""

from __future__ import annotations

import errno
import os
import re
import shlex
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from fcam_zoo.cli import build_parser
from fcam_zoo.errors import install_hint

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
            # From torch, from Python, from the system.
            if message.startswith(('DataLoader', 'cannot import')) or message == os.strerror(errno.ENOSPC):
                continue
            for part in re.split(r'…|\'\w+\'', message):
                assert part.strip() in source, message


@pytest.mark.parametrize('page', ['README.md', 'docs/index.md'])
def test_extras_and_the_installation_without_a_gpu_are_documented(page):
    text, config = (ROOT / page).read_text(), ConfigParser()
    config.read(ROOT / 'setup.cfg')
    assert [extra for extra in config['options.extras_require'] if f'`{extra}`' not in text] == []
    assert '--index-url https://download.pytorch.org/whl/cpu' in text


def test_hints_name_extras_that_exist():
    config = ConfigParser()
    config.read(ROOT / 'setup.cfg')
    source = '\n'.join(path.read_text() for path in (ROOT / 'fcam_zoo').rglob('*.py'))
    named = set(re.findall(r'install_hint\([\'"](\w+)[\'"]\)', source))
    assert {'viz', 'demo', 'app', 'export'} <= named <= {*config['options.extras_require']}
    assert install_hint('viz') == "pip install 'fcam-zoo[viz]', or in a checkout pip install -e '.[viz]'"
