"""Read YAML that other people wrote. Apart from the validation layer, because loading a model does not need PyYAML."""

from __future__ import annotations

from typing import Any

import yaml

from ._schema import DamagedText, describe_error

# Largest text in characters; the parser is slow.
MAX_YAML = 2**16


class _PlainLoader(yaml.SafeLoader):
    """Loads only the types of JSON."""

    # Dates stay text, and << is an ordinary key.
    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML annotates it as an instance attribute)
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((':timestamp', ':merge', ':value'))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, 'anchor', None) or getattr(event, 'tag', None):
            raise yaml.MarkedYAMLError(problem='tags (!), anchors (&) and aliases (*) are not supported')
        return super().compose_node(parent, index)


def parse_yaml(text: str) -> Any:
    """Parse YAML with the types of JSON: no tags, anchors or dates.

    Raises:
        DamagedText: For invalid YAML, other types, deep nesting, or more than `MAX_YAML` characters.
    """
    if len(text) > MAX_YAML:
        raise DamagedText(f'it has {len(text):,} characters, more than the limit of {MAX_YAML:,}')
    try:
        return yaml.load(text, _PlainLoader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as e:
        raise DamagedText(f'not valid YAML: {describe_error(e)}') from e
