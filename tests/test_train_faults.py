"""What goes wrong on people's own data and machines, and how a training takes it."""

from __future__ import annotations

from pathlib import Path

from synthetic import shape_image, train_config

from fcam_zoo.train import ClassifierConfig, DecoderConfig, train

SHORT = {'classifier': ClassifierConfig(epochs=1, batch_size=4), 'decoder': DecoderConfig(epochs=1, batch_size=4)}


def make_folder(root: Path, counts: dict[str, int]) -> Path:
    """A data set of class folders; `counts` gives the images of each split."""
    for number, (split, count) in enumerate(counts.items()):
        for i in range(count):
            path = root / split / ('square', 'disc')[i % 2] / f'{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            shape_image(i % 2, 1000 * number + i)[0].save(path)
    return root


def test_a_bad_image_among_the_samples_is_left_out(tmp_path):
    data = make_folder(tmp_path / 'photos', {'train': 8})
    first = data / 'train' / 'disc' / '1.png'
    first.write_bytes(b'no image')
    summary = train(train_config(data, skip_bad=True, **SHORT), tmp_path / 'run', quiet=True)
    assert summary['classifier']['bad'] == ['disc/1.png']
    assert (tmp_path / 'run' / 'decoder' / 'samples' / 'epoch_001.png').is_file()
