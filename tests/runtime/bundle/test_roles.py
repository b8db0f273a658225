"""Roles of inputs: which tensors fit one, and that every table of them is complete."""

from __future__ import annotations

import pytest

from m2l_runtime.bundle.roles import ROLES
from m2l_runtime.bundle.schema import TensorSpec
from m2l_runtime.conditioning.conditions import SAMPLERS

SIZE = (32, 48)


def spec(role: str, shape: tuple[object, ...], dtype: str = "uint8") -> TensorSpec:
    return TensorSpec(name=role, role=role, dtype=dtype, shape=shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "fits"),
    [
        (spec("mask", ("batch", 32, 48)), True),
        (spec("mask", ("batch", 48, 32)), False),
        (spec("mask", ("batch", 32, 48), "float32"), False),
        (spec("mask", (1, 32, 48)), False),
        (spec("mask", ("batch", 32)), False),
        (spec("mask", ()), False),
        (spec("appearance", ("batch", 12), "float32"), True),
        (spec("appearance", ("batch", 35), "float32"), True),
        (spec("appearance", ("batch", 11)), False),
        (spec("noise", ("batch", 64)), True),
        (spec("noise", ("batch", 64), "float32"), False),
        (spec("appearance", ("batch", "batch"), "float32"), False),
        (spec("dropout_bits", ("batch", 7)), True),
        (spec("dropout_bits", ("batch", "batch")), False),
        (spec("dropout_bits", ("batch", 7, 7)), False),
    ],
)
def test_role_fits__type_and_every_side(one: TensorSpec, fits: bool) -> None:
    assert ROLES[one.role].fits(one, SIZE) is fits


def test_role_shape__as_messages_show_it() -> None:
    assert {name: role.shape(SIZE) for name, role in ROLES.items()} == {
        "mask": "('batch', 32, 48)",
        "appearance": "('batch', K)",
        "dropout_bits": "('batch', N)",
        "noise": "('batch', N)",
    }


def test_samplers__have_every_role_but_the_required_one() -> None:
    assert set(SAMPLERS) == {name for name, role in ROLES.items() if not role.is_required}
