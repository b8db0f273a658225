"""Feed a segmentation network with pairs that are synthesized while it trains: nothing is written to disk.

    python examples/data_loader.py [COUNT [WORKERS]]

Each worker process opens a synthesizer of its own, when it needs the first image. Threads of OpenVINO do not survive a
fork: workers that are forked after their parent has used it run on onnxruntime, and those that are spawned on either
(``multiprocessing_context="spawn"``; a synthesizer that is open may then be handed over). One engine thread a worker is
enough, as the workers are the parallelism.
"""

from __future__ import annotations

import sys

import torch
from torch.utils.data import DataLoader, Dataset

from m2l_runtime import Shapes, Synthesizer

Pair = tuple[torch.Tensor, torch.Tensor]


class SyntheticLesions(Dataset[Pair]):
    """Pairs of a synthetic image, float32 (3, H, W) in 0..1, and its mask, float32 (1, H, W) of 0 and 1."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.seed = count, seed
        self.masks = Shapes(seed=seed, size=256)  # or a list of mask files and m2l_runtime.read_mask
        self.synthesizer: Synthesizer | None = None  # opened in the worker

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Pair:
        if self.synthesizer is None:
            self.synthesizer = Synthesizer.open(backend="onnxruntime", device="cpu", threads=1, streams=1)
        mask = self.masks.draw(number)
        image = self.synthesizer(mask[None], seeds=[self.seed + number])[0]  # the seed draws its colors
        return (
            torch.from_numpy(image).permute(2, 0, 1).float() / 255,
            torch.from_numpy(mask > 127)[None].float(),
        )


def main(count: str = "16", workers: str = "2") -> list[Pair]:
    """Go through the pairs once, as an epoch of training would."""
    loader = DataLoader(SyntheticLesions(int(count)), batch_size=8, num_workers=int(workers))
    batches: list[Pair] = []
    for images, masks in loader:
        inside, outside = images[masks.expand_as(images) > 0].mean(), images[masks.expand_as(images) == 0].mean()
        print(f"{len(images)} pairs: lesions {inside:.2f}, skin {outside:.2f}")
        batches.append((images, masks))
    return batches


if __name__ == "__main__":
    main(*sys.argv[1:])
