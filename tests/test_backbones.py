"""Every family of timm's networks as a backbone: the README's table is what the code does."""

from __future__ import annotations

import pytest
from backbone_table import BEGIN, END, FAMILIES, HEAD, README, row

TABLE = README.read_text(encoding='utf-8').partition(BEGIN)[2].partition(END)[0].strip()


def test_table_lists_every_family():
    assert TABLE.startswith(HEAD)
    assert [line.split('|')[1].strip() for line in TABLE.splitlines()[2:]] == list(FAMILIES)


@pytest.mark.parametrize('family', FAMILIES)
def test_family(family):
    assert row(family) in TABLE.splitlines()
