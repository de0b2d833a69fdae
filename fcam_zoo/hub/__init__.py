"""Weights: released files and their verification, model folders, and the Hugging Face Hub."""

from .._index import index as index
from .cache import downloads as downloads
from .cache import prune as prune
from .facts import facts_of_release as facts_of_release
from .facts import facts_of_run as facts_of_run
from .load import from_pretrained as from_pretrained
from .load import load_weights as load_weights
from .load import pull as pull
from .load import verify as verify
from .model_card import model_card as model_card
from .push import push_to_hub as push_to_hub
from .push import write_repository as write_repository
from .save import save_pretrained as save_pretrained
