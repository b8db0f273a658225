"""Encode images and write them."""
