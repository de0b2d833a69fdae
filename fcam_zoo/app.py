"""The viewer: a page that shows CAM and F-CAM, boxes, mask and annotation of an image. Needs the extra `app`.

`fcam-zoo app` starts it locally. This file also works unchanged as the `app.py` of a Hugging Face Space.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from fcam_zoo import FCAM, _index, cams, create_model, label_images, list_models, localize, viz
from fcam_zoo._catalog import GENERAL_MODEL
from fcam_zoo._device import chosen_device
from fcam_zoo._io import one_line
from fcam_zoo._photos import bundled
from fcam_zoo._schema import as_whole
from fcam_zoo._schema import show as show_value
from fcam_zoo.data import open_image
from fcam_zoo.errors import FcamZooError, install_hint
from fcam_zoo.inference import class_maps
from fcam_zoo.labelling import LabelOptions
from fcam_zoo.localization import MIN_AREA, Localization
from fcam_zoo.models.names import full_name
from fcam_zoo.objects import Threshold

# Gradio reads this when it is imported.
os.environ.setdefault('GRADIO_ANALYTICS_ENABLED', 'False')
try:
    import gradio as gr
except ImportError as e:
    raise ImportError(f'the viewer needs Gradio: {install_hint("app")}') from e

MAX_UPLOAD = '20mb'
MAX_PIXELS = 25_000_000
KEEP_SECONDS = 3600
"""Uploads and results older than this are deleted."""

SHOWN_CLASSES = 12

HELP = (
    'Drop a photograph. **CAM** is the class activation map of the classifier, by the chosen method. **F-CAM** is the '
    "decoder's map in full resolution, with boxes around the regions above the threshold."
)


@lru_cache(maxsize=4)
def load(name: str, device: str = 'cpu') -> FCAM:
    """Load a model onto a device and keep it for later requests."""
    return create_model(name, pretrained=True).to(device)


def knowledge(name: str, device: str = 'cpu') -> str:
    """Say in a sentence or two what a model was trained on, and which classes it knows."""
    model, entry = load(name, device), _index.index().get(full_name(name))
    names = [one_line(str(label), 40) for label in model.pretrained_cfg.get('label_names') or ()]
    data = f'Trained on {entry.dataset.title}. ' if entry else ''
    more = ' and others' if len(names) > SHOWN_CLASSES else ''
    classes = f': {", ".join(names[:SHOWN_CLASSES])}{more}' if names else ''
    return f'{data}{model.num_classes} classes{classes}. It may find other objects, but its label is one of these.'


def show(
    path: str | None, name: str, method: str, threshold: float, otsu: bool, multi: bool, device: str = 'cpu'
) -> tuple[Any, ...]:
    """Compute what the page shows for an uploaded image.

    Args:
        path: The image file; None before an upload.
        name: Name of the model.
        method: CAM method.
        threshold: tau in [0,1).
        otsu: Use Otsu's threshold instead.
        multi: Return several objects.
        device: Device of the model.

    Returns:
        CAM and F-CAM drawn over the image, mask uint8 (H,W), rows (class, confidence, box), path of a COCO file.
    """
    if path is None:
        return None, None, None, [], None
    model = load(name, device)
    tau: Threshold = 'otsu' if otsu else threshold
    try:
        image = open_image(path, max_pixels=MAX_PIXELS)
        (found,) = localize(model, image, tau, multi=multi)
        options = LabelOptions(['coco'], threshold=tau, multi=multi, model_name=name)
        (annotation,) = label_images(model, path, result_folder(), options).files
    except (FcamZooError, OSError, ValueError, TypeError) as e:
        # Do not show visitors the path on the server.
        raise gr.Error(str(e).replace(str(path), Path(path).name)) from e
    picture = viz.blend(image, found.map)
    for region in found.objects:
        picture = viz.draw_box(picture, region.box, f'{found.label} {found.score * region.strength:.2f}')
    cam = viz.blend(image, class_maps(model, [image], method)[0])
    return cam, picture, found.object_mask().astype(np.uint8) * 255, rows_of(found), str(annotation)


def rows_of(found: Localization) -> list[list[Any]]:
    """Return one row per object: class, confidence, box."""
    return [[found.label, round(found.score * region.strength, 3), *region.box] for region in found.objects]


@lru_cache(maxsize=1)
def _results() -> Path:
    folder = Path(tempfile.mkdtemp(prefix='fcam-zoo-app-'))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def result_folder() -> Path:
    """Create a folder for the results of one request, and delete old ones."""
    for old in _results().iterdir():
        if old.stat().st_mtime < time.time() - KEEP_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=_results()))


def default_models() -> list[str]:
    """Return the released models that include their backbone, the general model first."""
    complete = [name for name in list_models(pretrained=True) if _index.index()[name].holds_backbone]
    return sorted(complete, key=lambda name: name != GENERAL_MODEL)


def build(names: Sequence[str] | None = None, device: str = 'auto') -> gr.Blocks:
    """Build the page.

    Args:
        names: Models to choose from. Default: `default_models()`.
        device: Device of the models; 'auto' is CUDA if there is a GPU, otherwise the CPU.

    Raises:
        ValueError: For a device that cannot be used.
    """
    names = list(names or default_models())
    device = str(chosen_device(device))
    first = load(names[0], device)
    with gr.Blocks(title='fcam_zoo', analytics_enabled=False, delete_cache=(KEEP_SECONDS, KEEP_SECONDS)) as page:
        gr.Markdown(f'# From image labels to boxes\n{HELP}')
        with gr.Row():
            with gr.Column():
                path = gr.Image(label='Image', type='filepath', image_mode=None, sources=['upload'], height=320)
                examples(path)
                name = gr.Dropdown(names, value=names[0], label='Model')
                known = gr.Markdown(knowledge(names[0], device))
                method = gr.Dropdown(list(cams.METHODS), value='layercam', label='CAM method')
                threshold = gr.Slider(0, 0.99, value=first.threshold, step=0.01, label='Threshold')
                otsu = gr.Checkbox(label="Otsu's threshold instead")
                multi = gr.Checkbox(label=f'Several objects (each at least {MIN_AREA:.0%} of the image)')
            with gr.Column():
                with gr.Row():
                    cam = _picture('CAM', 'cam')
                    fcam = _picture('F-CAM and boxes', 'fcam')
                mask = _picture('Mask', 'mask', height=240)
                headers = ['class', 'confidence', 'x0', 'y0', 'x1', 'y1']
                rows = gr.Dataframe(headers=headers, label='Objects (pixels, ends exclusive)', interactive=False)
                annotation = gr.DownloadButton('Download the annotation (COCO)')
        inputs, results = [path, name, method, threshold, otsu, multi], [cam, fcam, mask, rows, annotation]
        answer = partial(show, device=device)
        for event in (path.change, method.change, threshold.release, otsu.change, multi.change):
            event(answer, inputs, results, api_visibility='private', show_progress='minimal')
        chosen = name.change(partial(settings, device=device), name, [threshold, known], api_visibility='private')
        chosen.then(answer, inputs, results, api_visibility='private')
    return page


def settings(name: str, device: str) -> tuple[float, str]:
    """Return what the page shows for a chosen model: its threshold, and what it knows."""
    return load(name, device).threshold, knowledge(name, device)


def examples(target: gr.Image) -> None:
    """Add the example photographs, if scikit-image is installed."""
    with contextlib.suppress(ImportError):
        gr.Examples([[str(path)] for path in bundled().values()], target, label='Examples')


def _picture(label: str, elem_id: str, **options: Any) -> gr.Image:
    buttons: Any = ['download', 'fullscreen']
    return gr.Image(label=label, elem_id=elem_id, format='png', interactive=False, buttons=buttons, **options)


def launch(
    names: Sequence[str] | None = None,
    host: str = '127.0.0.1',
    port: int | None = None,
    device: str = 'auto',
    **options: Any,
) -> Any:
    """Serve the page.

    Args:
        names: As in `build`.
        host: Address to listen on. The default is reachable only from this machine.
        port: Port; None uses the first free one from 7860.
        device: As in `build`.
        options: Further arguments of Gradio's `launch`.

    Raises:
        ValueError: When nothing can listen on this address, for example because another program does, or for a device
            that cannot be used.
    """
    check_address(host, port)
    page = build(names, device).queue(max_size=16, default_concurrency_limit=1)
    # System fonts, so that the page loads nothing from other servers.
    theme = gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['monospace'])
    return page.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        max_file_size=MAX_UPLOAD,
        theme=theme,
        footer_links=[],
        **options,
    )


def check_address(host: str, port: int | None) -> None:
    """Check that a server can listen on an address; Gradio would try a wrong one for minutes.

    Raises:
        ValueError: If not.
    """
    if port is not None and as_whole(port, 1, 65535) is None:
        raise ValueError(f'port is {show_value(port)}: choose a number from 1 to 65535')
    try:
        name = host.removeprefix('[').removesuffix(']') or '127.0.0.1'
        family = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((name, port or 0), family=family).close()
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else 'not a name or an address'
        where = f'host {show_value(host)}, port {port or "any"}'
        raise ValueError(f'{where}: the viewer cannot listen there ({reason}): give another one') from e


if __name__ == '__main__':
    launch(host=os.environ.get('GRADIO_SERVER_NAME', '127.0.0.1'))
