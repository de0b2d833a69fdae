"""The arguments of timm networks that a file may set: an allow-list with types and ranges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import timm

from .._schema import BelowOne, InvalidValue, Rule, Share, between, convert, length, show

MAX_SIDE = 2048
"""Largest side of an input image in pixels."""

# Largest number of blocks in all stages; timm's deepest network, ResNet-270, has 122.
MAX_BLOCKS = 160


def _is_word(value: str) -> bool:
    return len(value) <= 40 and (not value or value.replace('_', '').isalnum())


def _per_stage(hint: Any) -> Any:
    """Return the hint of one value for all stages, or a list with one for each."""
    return hint | Annotated[Sequence[hint], length(1, 8)]


_Count = Annotated[int, between(1, 512)]
_Channels = _per_stage(Annotated[int, between(1, 8192)])
_Ratio = _per_stage(Annotated[float, between(0, 16)])
_Patch = Annotated[int, between(2, 64)]
_Side = Annotated[int, between(16, MAX_SIDE)]
_Word = Annotated[str, Rule(_is_word, 'give a name of letters, digits and underscores')]
_Blocks = Annotated[
    Sequence[Annotated[int, between(0, 64)]],
    length(1, 8),
    Rule(lambda value: sum(value) <= MAX_BLOCKS, f'give at most {MAX_BLOCKS} blocks in all'),
]

# Type hints by name. An argument that holds a path, a download, a class or a function is not among them.
BACKBONE_ARGUMENTS: dict[str, Any] = {
    # Regularization.
    **dict.fromkeys(('drop_rate', 'drop_path_rate', 'drop_block_rate', 'proj_drop_rate'), BelowOne),
    **dict.fromkeys(('attn_drop_rate', 'pos_drop_rate', 'patch_drop_rate'), BelowOne),
    # Input.
    'img_size': _Side | tuple[_Side, _Side],
    'patch_size': _Patch | tuple[_Patch, _Patch],
    'window_size': _per_stage(Annotated[int, between(1, 64)]),
    # Depth.
    'depth': Annotated[int, between(1, MAX_BLOCKS)],
    **dict.fromkeys(('depths', 'layers', 'block_config'), _Blocks),
    # Width.
    **dict.fromkeys(('embed_dim', 'embed_dims', 'dims', 'channels', 'num_features'), _Channels),
    **dict.fromkeys(('mlp_ratio', 'mlp_ratios', 'expand_ratio'), _Ratio),
    **dict.fromkeys(('stem_size', 'stem_width', 'base_width', 'cardinality', 'groups', 'growth_rate'), _Count),
    'num_heads': _per_stage(_Count),
    'reg_tokens': Annotated[int, between(0, 64)],
    # Layers.
    'global_pool': Literal['', 'avg', 'max', 'avgmax', 'catavgmax', 'fast', 'token', 'map'],
    'pad_type': Literal['', 'same'],
    'pos_embed': Literal['', 'none', 'learn'],
    **dict.fromkeys(('act_layer', 'norm_layer', 'aa_layer', 'stem_type', 'weight_init'), _Word),
    **dict.fromkeys(('norm_eps', 'bn_eps', 'bn_momentum', 'head_init_scale'), Share),
    **dict.fromkeys(('init_values', 'layer_scale_init_value', 'ls_init_value'), Share),
    # Switches.
    **dict.fromkeys(('dynamic_img_size', 'dynamic_img_pad', 'strict_img_size', 'class_token', 'no_embed_class'), bool),
    **dict.fromkeys(('qkv_bias', 'qk_norm', 'pre_norm', 'final_norm', 'head_norm_first', 'fix_stem'), bool),
    **dict.fromkeys(('use_abs_pos_emb', 'use_rel_pos_bias', 'use_grn', 'conv_mlp', 'conv_bias', 'avg_down'), bool),
    'zero_init_last': bool,
}


def check_backbone_arguments(arguments: Any, place: str = 'backbone_kwargs') -> None:
    """Check arguments of a timm network that come from a file; null stands for timm's default.

    Args:
        arguments: The arguments by name.
        place: Their name for messages.

    Raises:
        InvalidValue: For an argument that is not in `BACKBONE_ARGUMENTS` or has a wrong value.
    """
    if not isinstance(arguments, dict):
        raise InvalidValue(f'{place} is {show(arguments)}: give arguments by name')
    for name, value in arguments.items():
        if name not in BACKBONE_ARGUMENTS:
            raise InvalidValue(
                f'{place} holds {show(name)}, which a file cannot set: remove it; BACKBONE_ARGUMENTS in '
                f'{__name__} lists what a file can set'
            )
        convert(BACKBONE_ARGUMENTS[name] | None, value, f'{place}.{name}')


def is_fcam(name: str) -> bool:
    """Return whether a timm name, with or without tag, is that of an F-CAM."""
    return name.partition('.')[0].partition('_')[0] == 'fcam'


def check_backbone_name(name: str, place: str = 'backbone') -> None:
    """Check that a backbone is a model of timm, and not an F-CAM.

    Raises:
        InvalidValue: If it is not.
    """
    if is_fcam(name):
        raise InvalidValue(f'{place} is {show(name)}: an F-CAM cannot be a backbone; give a timm classifier')
    if not timm.is_model(name):
        raise InvalidValue(f'{place} is {show(name)}: timm has no such model; timm.list_models() lists all')
