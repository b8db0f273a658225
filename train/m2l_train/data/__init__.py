"""Prepare and read training data."""
