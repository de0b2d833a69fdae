"""torch.hub entry points, generated from the zoo table: torch.hub.load(repo, 'fcam_<backbone>_<dataset>', pretrained=True)."""

dependencies = ['torch', 'timm', 'huggingface_hub', 'safetensors', 'numpy', 'PIL', 'cv2', 'tqdm']

from fcam_zoo.hub.torch_hub import entry_points as _entry_points

globals().update(_entry_points())
