"""Find the layer of a classifier that class maps explain."""

from __future__ import annotations

import torch
import torch.nn as nn

from .._schema import show
from .layout import find_layout


def named_layer(module: nn.Module, name: str) -> nn.Module:
    """Return a submodule by its dotted name.

    Raises:
        ValueError: If it does not exist.
    """
    names = [n for n, _ in module.named_modules() if n]
    if name not in names:
        kind = type(module).__name__
        raise ValueError(f'no layer {show(name)} in the {kind}; its last layers: {", ".join(names[-8:])}')
    return module.get_submodule(name)


def find_layer(classifier: nn.Module, layer: nn.Module | str | None, images: torch.Tensor) -> nn.Module:
    """Resolve `layer`; None means the last layer whose output is a spatial map.

    Raises:
        TypeError: If `layer` is neither a module nor a name.
        ValueError: If the layer does not exist, or the default cannot be inferred.
    """
    if isinstance(layer, str):
        return named_layer(classifier, layer)
    if layer is classifier:
        raise ValueError('layer is the whole classifier: name one within it')
    if isinstance(layer, nn.Module):
        return layer
    if layer is not None:
        raise TypeError(f'layer is a {type(layer).__name__}: give one module or its dotted name')
    # Importing timm imports `models`, which imports this package (see `_registration`).
    from timm.models import VisionTransformer

    if isinstance(classifier, VisionTransformer):
        last, norm = classifier.blocks[-1], classifier.get_submodule('norm')
        # After the last attention, patches no longer reach the class token.
        if classifier.global_pool == 'token':
            return last.get_submodule('norm1')
        return last if isinstance(norm, nn.Identity) else norm
    return _last_map(classifier, images)


def _last_map(classifier: nn.Module, images: torch.Tensor) -> nn.Module:
    """Run one image, and return the last layer whose output is a map of more than one cell."""
    last: tuple[nn.Module, int] | None = None
    tokens = 0

    def note(module: nn.Module, _inputs: tuple, output: object) -> None:
        nonlocal last, tokens
        layout = find_layout(classifier, output)
        if module is classifier or layout is None or not isinstance(output, torch.Tensor):
            return
        if layout == 'NLC':
            tokens = max(tokens, output.shape[1])
            return
        cells = output[0].numel() // max(1, output.shape[1 if layout == 'NCHW' else -1])
        if cells > 1:
            last, tokens = (module, cells), 0

    handles = [m.register_forward_hook(note) for m in classifier.modules()]
    try:
        with torch.no_grad():
            classifier(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    if last is None:
        raise ValueError('no layer of the classifier outputs a (B,C,h,w) map: name one with layer=')
    module, cells = last
    if tokens >= cells:
        raise ValueError(
            f'the default layer cannot be inferred, because the last layers of the {type(classifier).__name__} output '
            'tokens (B,L,C): name one with layer=, and the number of its class tokens with prefix_tokens='
        )
    return module
