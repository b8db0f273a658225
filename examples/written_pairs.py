"""Feed a segmentation network with pairs that m2l synth wrote: files, npz, tars or Parquet.

    m2l synth shapes:1000 tars --format webdataset
    python examples/written_pairs.py tars [WORKERS]

A stream reads each file in one go; by number, any order is to be had.
"""

from __future__ import annotations

import sys

from torch.utils.data import DataLoader

from m2l_train.datasets import PairsDataset, PairsIterableDataset


def main(folder: str, workers: str = "2") -> None:
    """Go through the pairs in any order, and as a stream that reads each file once."""
    by_number, stream = PairsDataset(folder), PairsIterableDataset(folder, shuffle=1000, seed=0)
    for loader in (
        DataLoader(by_number, batch_size=8, shuffle=True, num_workers=int(workers)),
        DataLoader(stream, batch_size=8, num_workers=int(workers)),
    ):
        print(f"{sum(len(images) for images, masks in loader)} pairs, the first of {by_number.name(0)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
