"""torch.hub entry points, generated from the zoo table: torch.hub.load(repo, 'fcam_<backbone>_<dataset>')."""

dependencies = ['torch', 'timm', 'huggingface_hub', 'safetensors', 'numpy', 'PIL', 'cv2', 'tqdm', 'yaml']

from fcam_zoo.hub.torch_hub import entry_points as _entry_points  # noqa: E402 (torch.hub reads dependencies first)

globals().update(_entry_points())
