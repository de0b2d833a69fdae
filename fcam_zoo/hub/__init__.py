"""Weights: the index of released files, their verification, and model folders."""

from .._index import index as index
from .._index import verify as verify
from .save import save_pretrained as save_pretrained
