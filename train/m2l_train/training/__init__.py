"""Train a model and keep its run folder."""
