"""The training stack: data, models, tasks, the trainer, the self-training loop and the jobs."""

__version__ = "1.1.0"
