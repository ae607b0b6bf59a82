"""The ``zeitwork`` binary: configuration, storage, API, CLI, and the one place that puts the actor tree together."""

__version__ = "0.1.0"
