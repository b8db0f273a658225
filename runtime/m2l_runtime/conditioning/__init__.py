"""What a generator takes beside the mask: appearances, random bits, and how both are chosen."""
