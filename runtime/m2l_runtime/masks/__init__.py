"""Read and find masks, and draw them."""
