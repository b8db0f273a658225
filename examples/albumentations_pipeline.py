"""Paint a synthesized lesion into every second mask of an Albumentations pipeline, after the mask was deformed.

    pip install '.[cpu,albumentations]' && python examples/albumentations_pipeline.py

Workers open engines of their own.
"""

from __future__ import annotations

import albumentations as A
import numpy as np
from torch.utils.data import DataLoader

from m2l_train.datasets import SyntheticDataset
from m2l_train.datasets.albumentations import Mask2Lesion


def main() -> None:
    """Use the same pipeline on a pair of one's own, and as the transform of a dataset."""
    pipeline = A.Compose([A.ElasticTransform(p=1), Mask2Lesion(p=0.5), A.HorizontalFlip(), A.ToTensorV2()], seed=0)
    image, mask = np.full((300, 400, 3), 200, np.uint8), np.zeros((300, 400), np.uint8)
    mask[100:200, 120:280] = 1
    pair = pipeline(image=image, mask=mask)
    print(tuple(pair["image"].shape), tuple(pair["mask"].shape))
    pairs = SyntheticDataset("shapes:4", transform=A.Compose([A.RandomRotate90(), A.ToTensorV2()], seed=0))
    for images, masks in DataLoader(pairs, batch_size=4, num_workers=2):
        print(tuple(images.shape), tuple(masks.shape))


if __name__ == "__main__":
    main()
