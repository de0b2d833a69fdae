"""Release tooling for maintainers: run `python -m tools.release` or `python -m tools.tables` in the repository root."""
