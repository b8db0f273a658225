"""Drive NVIDIA GPUs: list them, and run calls of an engine on one of them. This package knows no engine."""
