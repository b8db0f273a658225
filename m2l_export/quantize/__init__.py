"""Quantize a generator to int8."""
