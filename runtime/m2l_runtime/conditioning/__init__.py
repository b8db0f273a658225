"""Choose what a generator takes beside the mask: appearances, noise and dropout bits, given or sampled."""
