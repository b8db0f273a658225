"""Helpers without a subject of their own: atomic files, CPUs, text for terminals, signals."""
