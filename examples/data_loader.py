"""Feed a segmentation network with pairs that are synthesized while it trains: nothing is written to disk.

    python examples/data_loader.py [COUNT [WORKERS]]

Each worker opens an engine of its own when it needs the first image, with one thread: the workers are the parallelism.
"""

from __future__ import annotations

import sys

from torch.utils.data import DataLoader

from m2l_train.datasets import SyntheticDataset


def main(count: str = "16", workers: str = "2") -> None:
    """Go through the pairs once, as an epoch of training would."""
    pairs = SyntheticDataset(f"shapes:{count}", seed=0)  # or a folder of masks
    for images, masks in DataLoader(pairs, batch_size=8, num_workers=int(workers)):
        lesion = masks.expand_as(images) == 1
        print(f"{len(images)} pairs: lesions {images[lesion].mean():.2f}, skin {images[~lesion].mean():.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
