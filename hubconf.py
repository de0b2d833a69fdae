"""torch.hub entry points: torch.hub.load(repo, 'fcam_<backbone>_<dataset>', pretrained=True).

They are generated from the zoo (fcam_zoo/models/zoo.py). torch.hub.list and torch.hub.help show them.
"""

dependencies = ['torch', 'timm', 'huggingface_hub', 'safetensors']

from fcam_zoo.hub.torch_hub import entry_points as _entry_points  # noqa: E402 (torch.hub reads dependencies first)

globals().update(_entry_points())
