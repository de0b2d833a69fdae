"""Hostile inputs for every surface that reads what other people wrote.

`python -m tests.fuzz` runs a campaign; `tests/test_properties.py` runs a small one.
"""
