"""Networks whose outputs the golden values hold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn as nn

from fcam_zoo.models.decoder import UnetDecoder

# Channels of the encoder and the decoder, and whether there is a centre block.
DECODERS = {
    'resnet': ((5, 8, 9, 10, 12), (10, 8, 6, 5, 4), False),
    'inception': ((5, 8, 9, 10, 12), (10, 8, 6, 5, 4), False),
    'vgg': ((6, 8, 12), (10, 8, 6), True),
    'odd': ((5, 8, 9), (10, 8, 6), False),
}


class GoldenNet(nn.Module):
    """Net A (two convolutions, average pooling, linear) or net B (a third convolution before the pooling)."""

    def __init__(self, arrays: Mapping[str, np.ndarray], name: str) -> None:
        super().__init__()
        weights = {k[len(name) + 3 :]: torch.tensor(v) for k, v in arrays.items() if k.startswith(f'{name}_w_')}
        self.c1, self.c2 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.c3 = nn.Conv2d(12, 10, 3, 1, 1) if name == 'B' else None
        self.fc = nn.Linear(10 if name == 'B' else 12, 5)
        self.load_state_dict(weights)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu2(self.c2(self.relu1(self.c1(x))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        if self.c3 is not None:
            x = self.c3(x).relu()
        return self.fc(x.mean((2, 3)))


def load_decoder(arrays: Mapping[str, np.ndarray], kind: str) -> tuple[UnetDecoder, list[torch.Tensor]]:
    """Return the decoder of a kind with its golden weights, in eval mode, and the features from level 0 on."""
    encoder, channels, center = DECODERS[kind]
    net = UnetDecoder(encoder, channels, center).eval()
    # The published code has other layer names in the same order.
    values = [torch.tensor(v) for k, v in arrays.items() if k.startswith((f'{kind}_dec_', f'{kind}_head_'))]
    own = net.state_dict()
    net.load_state_dict({k: v.reshape(own[k].shape) for (k, v) in zip(own, values, strict=True)})
    return net, [torch.tensor(arrays[f'{kind}_feat_{i}']) for i in range(len(encoder) + 1)]
