"""Encode images and masks, and write them to files."""
