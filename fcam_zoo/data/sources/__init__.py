"""Where images come from: files, folders and lists; stores with a URL; tar shards; Parquet files."""

from .base import ImageSource
from .opening import open_source

__all__ = ['ImageSource', 'open_source']
