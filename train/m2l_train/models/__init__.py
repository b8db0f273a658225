"""Networks, losses and the pix2pix model."""
