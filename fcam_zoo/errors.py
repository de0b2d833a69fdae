"""Errors of the package. Each message names the file, field or argument and says how to fix it."""

from ._io import describe_os_error


def install_hint(extra: str) -> str:
    """Return the command that installs an extra, from the package index and from a checkout."""
    return f"pip install 'fcam-zoo[{extra}]', or in a checkout pip install -e '.[{extra}]'"


class FcamZooError(Exception):
    """Base class of the errors of this package."""


class UnknownModelError(FcamZooError, ValueError):
    """A model, teacher or backbone name that does not exist, or a name without released weights."""


class UntrainedModelWarning(UserWarning):
    """A model with random weights, whose results look plausible."""


class DatasetError(FcamZooError, ValueError):
    """A data set whose files or metadata are missing or inconsistent."""


class ImageError(FcamZooError, ValueError):
    """An image file that cannot be read or is too large."""


class StoreReadError(ImageError):
    """An object that its store did not return in all tries; a later run may get it."""


class OutputError(FcamZooError, OSError):
    """A result that cannot be written; `errno` and `filename` are those of the system's error."""

    def __str__(self) -> str:
        return describe_os_error(self)


class WeightsError(FcamZooError, ValueError):
    """A weight file that is missing, altered, truncated, or does not fit the model."""


class HubError(FcamZooError, OSError):
    """A file that cannot be downloaded from the Hugging Face Hub, read from its cache, or published there."""


class SettingsError(FcamZooError, ValueError):
    """Settings of a training, in a recipe or a run folder, that are wrong or cannot be read."""


class TrainingError(FcamZooError, RuntimeError):
    """Training that cannot start or continue."""


class DistributedError(FcamZooError, RuntimeError):
    """Distributed processes (torchrun) that cannot start or continue."""


class ExportError(FcamZooError, RuntimeError):
    """A model that cannot be exported, or an exported file whose outputs differ from the model."""


class BenchmarkError(FcamZooError, RuntimeError):
    """An evaluation that cannot continue."""


class ReportError(FcamZooError, ValueError):
    """A file of benchmark results that is damaged."""
