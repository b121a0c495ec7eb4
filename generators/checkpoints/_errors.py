"""What goes wrong with checkpoint files. Every message names the file and the next thing to do."""


class CheckpointError(ValueError):
    """The file is damaged, is something else, or holds a network that is not supported."""


class UnsafePickleError(CheckpointError):
    """The pickle asks for something that no checkpoint needs; nothing of it was imported or run."""
