"""Convert the ImageNet weights of Keras' MobileNet v1 to the backbone files of the released models.

Keras Applications publishes them at https://storage.googleapis.com/tensorflow/keras-applications/mobilenet/ as
mobilenet_7_5_224_tf.h5 (width 0.75) and mobilenet_2_5_224_tf.h5 (width 0.25). Needs h5py (extra `convert`):

    python -m tools.convert_keras_mobilenet mobilenet_7_5_224_tf.h5
    python -m tools.convert_keras_mobilenet mobilenet_2_5_224_tf.h5 -o mobilenetv1_025.tf_in1k.safetensors

The result has timm's names. It is only written if it equals the weights from which the released models were trained.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import h5py
    import torch

# Channels of the first layer -> network, and the SHA-256 of its weights (`fcam_zoo._weights.digest`: sorted names and
# float32 values, whatever the file).
NETWORKS = {
    24: ('mobilenetv1_075', 'a0fe55db52911593d31166fa9065213f689ef171c9d562ce9a9b1af050de5a3e'),
    8: ('mobilenetv1_025', 'a875897bf8c7cb6d5a5ddbac5700bc5f440bae515f60f0fd5e85731989064737'),
}
NORM = {'gamma': 'weight', 'beta': 'bias', 'moving_mean': 'running_mean', 'moving_variance': 'running_var'}
SOURCE = 'https://storage.googleapis.com/tensorflow/keras-applications/mobilenet/'


class ConversionError(ValueError):
    """The file cannot be converted."""


class Weight(NamedTuple):
    """A weight of Keras, and its name in timm; `axes` is the order of its axes there."""

    layer: str
    name: str
    target: str
    axes: tuple[int, ...] = (0,)


def weights() -> Iterator[Weight]:
    """Yield all weights of the network, in the order of the layers."""
    from fcam_zoo.models.mobilenetv1 import STAGES

    yield from _convolution('conv1', 'conv_stem', 'bn1')
    places = [(stage, block) for stage, (blocks, *_) in enumerate(STAGES) for block in range(blocks)]
    for number, (stage, block) in enumerate(places, 1):
        place = f'blocks.{stage}.{block}'
        yield from _convolution(f'conv_dw_{number}', f'{place}.conv_dw', f'{place}.bn1', depthwise=True)
        yield from _convolution(f'conv_pw_{number}', f'{place}.conv_pw', f'{place}.bn2')
    # The classifier is a 1x1 convolution in Keras and a linear layer in timm.
    yield Weight('conv_preds', 'kernel', 'classifier.weight', (3, 2, 0, 1))
    yield Weight('conv_preds', 'bias', 'classifier.bias')


def _convolution(layer: str, convolution: str, norm: str, depthwise: bool = False) -> Iterator[Weight]:
    """Yield a convolution without bias and its batch norm.

    Kernels of Keras are (height, width, in, out), depthwise ones (height, width, channels, 1); those of torch are (out,
    in, height, width) and (channels, 1, height, width).
    """
    name, axes = ('depthwise_kernel', (2, 3, 0, 1)) if depthwise else ('kernel', (3, 2, 0, 1))
    yield Weight(layer, name, f'{convolution}.weight', axes)
    for keras, torch_name in NORM.items():
        yield Weight(f'{layer}_bn', keras, f'{norm}.{torch_name}')


def read(path: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """Read a file of Keras, and return the name of the network and its weights in timm's names.

    Raises:
        ConversionError: If it is not the HDF5 file of one of the two networks, with its classifier.
        ImportError: Without h5py.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError("reading .h5 files needs h5py: pip install -e '.[convert]'") from error
    if not path.is_file():
        raise ConversionError(f'{path} is not a file: download it from {SOURCE}')
    try:
        with h5py.File(path, 'r') as file:
            return _read(path, file.get('model_weights', file))
    except (OSError, RuntimeError) as error:
        raise ConversionError(
            f'{path} is not an HDF5 file or is damaged ({error}): download it again from {SOURCE}'
        ) from error


def _read(path: Path, layers: h5py.Group) -> tuple[str, dict[str, torch.Tensor]]:
    import numpy as np
    import timm
    import torch

    import fcam_zoo.models  # noqa: F401 (registers the networks)

    first, *_ = weights()
    channels = _dataset(path, layers, first).shape[-1]
    if channels not in NETWORKS:
        raise ConversionError(
            f'{path}: the first layer has {channels} channels; give mobilenet_7_5_224_tf.h5 (24) or '
            'mobilenet_2_5_224_tf.h5 (8)'
        )
    name, _ = NETWORKS[channels]
    expected = {
        key: value.shape for key, value in timm.create_model(name).state_dict().items() if 'num_batches' not in key
    }
    found = {}
    for weight in weights():
        data = _dataset(path, layers, weight)
        shape = tuple(data.shape[axis] for axis in weight.axes if axis < len(data.shape))
        wanted = tuple(expected.pop(weight.target))
        # The classifier's kernel has two more axes than a linear layer.
        if len(data.shape) != len(weight.axes) or shape != wanted + (1,) * (len(shape) - len(wanted)):
            raise ConversionError(
                f'{path}: {weight.layer}/{weight.name} has shape {data.shape}, which does not fit '
                f'{weight.target} {wanted} of {name}'
            )
        if data.dtype != np.float32:
            raise ConversionError(f'{path}: {weight.layer}/{weight.name} has the type {data.dtype}, not float32')
        values = np.ascontiguousarray(data[()].transpose(weight.axes)).reshape(wanted)
        found[weight.target] = torch.from_numpy(values)
    if expected:
        raise ConversionError(f'{name} also needs {", ".join(expected)}: this version of timm is not supported')
    return name, found


def _dataset(path: Path, layers: h5py.Group, weight: Weight) -> Any:
    """Find the data set of a weight through the `weight_names` of its layer, as Keras does."""
    import h5py

    layer = layers.get(weight.layer)
    if not isinstance(layer, h5py.Group):
        without = ' (files named *_no_top.h5 have no classifier)' * (weight.layer == 'conv_preds')
        raise ConversionError(f'{path} has no layer {weight.layer}{without}: give a file of {SOURCE}')
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in layer.attrs.get('weight_names', ())]
    matching = [name for name in names if name.rpartition('/')[2].partition(':')[0] == weight.name]
    data = layer.get(matching[0]) if len(matching) == 1 else None
    if not isinstance(data, h5py.Dataset):
        listed = ', '.join(names) or 'none'
        raise ConversionError(f'{path}: layer {weight.layer} has no weight {weight.name} (its weight_names: {listed})')
    return data


def convert(source: Path, target: Path | None = None) -> Path:
    """Convert a file, check the result, and write it.

    Args:
        source: mobilenet_7_5_224_tf.h5 or mobilenet_2_5_224_tf.h5.
        target: File to write; default: `<network>.tf_in1k.safetensors` in the current folder.

    Returns:
        The written file.

    Raises:
        ConversionError: If the file cannot be read, or its weights are others.
        ImportError: Without h5py.
    """
    from safetensors.torch import save_file

    from fcam_zoo._io import atomic_path
    from fcam_zoo._weights import digest

    name, found = read(source)
    sha256 = dict(NETWORKS.values())[name]
    if (actual := digest(found)) != sha256:
        raise ConversionError(
            f'{source}: its weights for {name} have SHA-256 {actual} instead of {sha256}: they are not those of the '
            f'released models; download the file again from {SOURCE}'
        )
    target = target or Path(f'{name}.tf_in1k.safetensors')
    about = {'architecture': name, 'source': f'Keras Applications, {source.name}', 'license': 'Apache-2.0'}
    with atomic_path(target) as temporary:
        save_file(found, temporary, about)
    return target


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    doc, _, rest = (__doc__ or '').partition('\n')
    parser = argparse.ArgumentParser(
        'python -m tools.convert_keras_mobilenet',
        description=doc,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('file', type=Path, help='mobilenet_7_5_224_tf.h5 or mobilenet_2_5_224_tf.h5')
    parser.add_argument(
        '-o', '--output', type=Path, help='file to write (default: <network>.tf_in1k.safetensors in this folder)'
    )
    args = parser.parse_args(argv)
    try:
        written = convert(args.file, args.output)
    except (ConversionError, ImportError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(f'{written}: equal to the weights of the released models')
    return 0


if __name__ == '__main__':
    sys.exit(main())
