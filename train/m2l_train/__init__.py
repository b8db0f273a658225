"""Training of pix2pix generators on lesion masks and images, with PyTorch. So far: the network."""
