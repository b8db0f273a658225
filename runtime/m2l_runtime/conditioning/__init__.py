"""Choose what a generator takes beside the mask: appearances and dropout bits, given or sampled."""
