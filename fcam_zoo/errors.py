"""Errors of the package. Each message names the file, field or argument at fault and says how to mend it."""


class FcamZooError(Exception):
    """Base of every error that the package raises on its own account."""


class UnknownModelError(FcamZooError, ValueError):
    """A model, teacher or backbone name that does not exist, or a name without released weights."""


class DatasetError(FcamZooError, ValueError):
    """A data set whose files or metadata are missing or contradict each other."""


class ImageError(FcamZooError, ValueError):
    """An image file that cannot be read, or is refused because of its size."""


class WeightsError(FcamZooError, ValueError):
    """A weight file that is missing, altered, truncated, or does not fit the model."""


class HubError(FcamZooError, OSError):
    """A file that the Hugging Face Hub or its cache cannot give, or that cannot be published there."""


class TrainingError(FcamZooError, RuntimeError):
    """Training that cannot start or go on."""


class DistributedError(FcamZooError, RuntimeError):
    """Processes of one torchrun that cannot start or continue together."""


class ExportError(FcamZooError, RuntimeError):
    """A model that cannot be exported, or an exported file that disagrees with it."""


class BenchmarkError(FcamZooError, RuntimeError):
    """Scoring that cannot go on."""
