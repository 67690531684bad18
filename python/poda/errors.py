"""What can go wrong, as exceptions. A file that cannot be read or written is an OSError, such as FileNotFoundError."""


class PodaError(Exception):
    """Whatever Poda raises of its own."""


class ModelError(PodaError, ValueError):
    """A file or bytes that are no valid model."""


class UnsupportedError(PodaError, NotImplementedError):
    """A model needs an operator that Poda has not, which the message names."""


class InputError(PodaError, ValueError):
    """What was fed does not fit: names, types or shapes."""


class DeadlineError(PodaError, TimeoutError):
    """A run took longer than its timeout."""


class PruningError(PodaError):
    """A model cannot be pruned as asked."""
