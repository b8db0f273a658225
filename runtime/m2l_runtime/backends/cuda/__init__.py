"""NVIDIA cards: what there is, and how calls of an engine follow one another on one of them. Knows no engine."""
