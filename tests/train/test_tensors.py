"""Tensors of PyTorch as masks: the runtime takes them and never imports it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support import disc

from m2l_runtime import Synthesizer, read_mask
from m2l_runtime.errors import MaskFileError

MASK = disc(radius=70)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float16])
def test_read_mask__takes_tensors(dtype: torch.dtype, tiny_synth: Synthesizer) -> None:
    tensor: Any = torch.from_numpy(MASK > 0).to(dtype)
    np.testing.assert_array_equal(read_mask(tensor, (256, 256)).mask, MASK)
    np.testing.assert_array_equal(tiny_synth(tensor[None, None]), tiny_synth(MASK[None]))


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(9, 9, requires_grad=True), torch.zeros(9, 9, device="meta"), torch.zeros(9, 9, dtype=torch.bfloat16)],
    ids=["gradients", "another device", "a type that NumPy has not"],
)
def test_read_mask__a_tensor_that_numpy_cannot_read_is_told_how(tensor: Any) -> None:
    with pytest.raises(MaskFileError, match=r"a Tensor: is a Tensor that NumPy cannot read.*detach\(\)\.cpu\(\)"):
        read_mask(tensor, (256, 256))
