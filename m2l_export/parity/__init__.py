"""Compare images of two computations that should agree."""
