"""Metrics of synthesized images."""
