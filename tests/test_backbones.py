"""Every family of timm's networks as a backbone: the table in docs/backbones.md matches the code."""

from __future__ import annotations

import pytest
from backbone_table import BEGIN, END, FAMILIES, HEAD, PAGE, row

TABLE = PAGE.read_text(encoding='utf-8').partition(BEGIN)[2].partition(END)[0].strip()


def test_table_lists_every_family():
    assert TABLE.startswith(HEAD)
    assert [line.split('|')[1].strip() for line in TABLE.splitlines()[2:]] == list(FAMILIES)


@pytest.mark.parametrize('family', FAMILIES)
def test_family(family):
    assert row(family) in TABLE.splitlines()
