"""Paint a synthesized lesion into every second label of a MONAI pipeline, after the label was mirrored.

    pip install '.[cpu,monai]' && python examples/monai_pipeline.py

Workers open engines of their own.
"""

from __future__ import annotations

import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, RandFlipd, ScaleIntensityd

from m2l_train.datasets import SyntheticDataset, to_dictionary
from m2l_train.datasets.monai import Mask2Lesiond


def main() -> None:
    """Use the transform on dictionaries of one's own, and MONAI's on synthesized ones."""
    label = torch.zeros(1, 300, 400)
    label[:, 100:200, 120:280] = 1
    transform = Compose([RandFlipd(["image", "label"], prob=0.5), Mask2Lesiond("image", "label", prob=0.5)])
    own = [{"image": torch.full((3, 300, 400), 0.8), "label": label}] * 4
    for data in (own, SyntheticDataset("shapes:4", transform=to_dictionary)):
        steps = transform if data is own else Compose([ScaleIntensityd("image")])
        for batch in DataLoader(Dataset(data, steps), batch_size=4, num_workers=2):
            print(tuple(batch["image"].shape), tuple(batch["label"].shape))


if __name__ == "__main__":
    main()
