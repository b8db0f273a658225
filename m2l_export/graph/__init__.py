"""Turn a trained generator into the graph that is shipped."""
