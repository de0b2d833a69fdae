"""Configs, weight files and the index of released models."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from safetensors.torch import save_file

import fcam_zoo
from fcam_zoo import _index

from .mutations import Draw, Edits, Tree, edits_of, mutated_json, mutated_tree
from .surface import Surface, small_model

CONFIG, WEIGHTS = 'config.json', 'model.safetensors'


class Config(Surface):
    """`config.json` beside valid weights."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = fcam_zoo.hub.save_pretrained(small_model(), folder / 'model')
        base = json.loads((self.model / CONFIG).read_text())
        self.valid = [json.dumps(base).encode()]
        nested = json.loads(json.dumps(base))
        nested['model_args'] |= {'backbone': 'fcam', 'backbone_kwargs': {'backbone': 'test_resnet'}}
        full = json.loads(json.dumps(base))
        full['model_args'] |= {'backbone_kwargs': ARCHITECTURE}
        arguments = base | {'model_args': dict.fromkeys(ARGUMENTS) | base['model_args']}
        self.inputs = st.one_of(*map(mutated_json, (base, base, arguments, nested, full)))

    def try_input(self, value: bytes) -> None:
        (self.model / CONFIG).write_bytes(value)
        fcam_zoo.create_model(f'local-dir:{self.model}')


ARGUMENTS = ['backbone_checkpoint', 'backbone_pretrained', 'decoder_channels', 'decoder_norm', 'threshold', 'dilated']
ARCHITECTURE = {
    'layers': [1, 1, 1, 1],
    'global_pool': 'avg',
    'drop_rate': 0.0,
    'checkpoint_path': '',
    'act_layer': 'relu',
}


class Weights(Surface):
    """Safetensors files whose size and SHA-256 fit the config."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = fcam_zoo.hub.save_pretrained(small_model(), folder / 'model')
        self.config = json.loads((self.model / CONFIG).read_text())
        data = (self.model / WEIGHTS).read_bytes()
        length = int.from_bytes(data[:8], 'little')
        header = json.loads(data[8 : 8 + length])
        self.valid = [Edits(data, ())]
        few = dict(list(header.items())[:4])
        save_file({}, folder / 'empty.safetensors')
        empty = (folder / 'empty.safetensors').read_bytes()
        pickle = b'\x80\x04c__builtin__\neval\n.'
        self.inputs = st.one_of(
            edits_of(data),
            with_header(data, mutated_tree(header)),
            with_header(data, mutated_tree(few)),
            _with_values(data, 8 + length),
            st.sampled_from([b'', empty, pickle, b'PK\x03\x04', data[:-1], data + b'\0']).map(lambda d: Edits(d, ())),
        )

    def try_input(self, value: Edits) -> None:
        data = value.build()
        (self.model / WEIGHTS).write_bytes(data)
        config = json.loads(json.dumps(self.config))
        config['weights'] |= {'size': len(data), 'sha256': hashlib.sha256(data).hexdigest()}
        (self.model / CONFIG).write_text(json.dumps(config))
        fcam_zoo.create_model(f'local-dir:{self.model}')


def with_header(data: bytes, headers: st.SearchStrategy) -> st.SearchStrategy:
    """Replace the header of a safetensors file."""
    end = 8 + int.from_bytes(data[:8], 'little')

    def replace(header: Tree) -> Edits:
        text = json.dumps(header).encode()
        return Edits(data, ((0, end, struct.pack('<Q', len(text)) + text),))

    return headers.map(replace)


@st.composite
def _with_values(draw: Draw, data: bytes, start: int) -> Edits:
    """Overwrite some numbers, for example with NaN."""
    at = draw(st.integers(start // 4 + 1, len(data) // 4 - 64)) * 4
    number = draw(st.sampled_from([float('nan'), float('inf'), -float('inf'), 1e38, 1e-40, 0.0]))
    count = draw(st.sampled_from([1, 16, 60]))
    return Edits(data, ((at, at + 4 * count, struct.pack('<f', number) * count),))


class Index(Surface):
    """`index.json` of the released weights."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        entries = json.loads((_index.weights_dir() / 'index.json').read_text())
        entry = min(entries, key=lambda entry: entry['num_classes'])
        entry |= {'num_classes': 2, 'class_names': ['a', 'b']}
        self.valid = [json.dumps(tree).encode() for tree in ([entry], entries[:2], [])]
        self.inputs = mutated_json([entry]) | mutated_json(entries[:2])

    def try_input(self, value: bytes) -> None:
        path = self.folder / 'index.json'
        path.write_bytes(value)
        for entry in _index.read_entries(path, 'install fcam-zoo again').values():
            _check_entry(entry)


def _check_entry(entry: Any) -> None:
    """Use an entry as the package does, without the network."""
    entry.to_dict()
    found = _index.local_path(entry)
    # An entry without a file has the path of the folder.
    if found is not None and not entry.hf_hub_id and _index.weights_dir() not in (found, found.parent):
        raise AssertionError(f'{found} is outside the folder of the weights')
