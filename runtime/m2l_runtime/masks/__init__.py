"""Read and find masks."""
