"""Make random numbers from a seed and names: the same everywhere, whatever else is sampled.

NumPy's generator methods may change from version to version. The raw stream of a bit generator does not, so only that
is used. Key: BLAKE2b of the seed and the names (RFC 7693). Stream: Philox 4x64-10, from Salmon, Moraes, Dror and Shaw,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from m2l_runtime.errors import ArgumentError


def check_seed(seed: int) -> None:
    """Check that a seed is in range.

    Raises:
        InputError: it is below 0 or not below 2^64.
    """
    if not 0 <= seed < 1 << 64:
        raise ArgumentError(f"the seed must be at least 0 and below 2^64, got {seed}")


def random_uint64(count: int, seed: int, *names: str | int) -> npt.NDArray[np.uint64]:
    """Make `count` numbers, uniform in 0..2**64-1, for one purpose.

    Args:
        count: how many. The first numbers do not depend on it.
        seed: the run's seed, 0 or above.
        names: what the numbers are for: purpose, item, sample number, ... Each list of names has its own stream.
    """
    hashed = hashlib.blake2b(digest_size=16)
    for word in (str(seed), *(f"{type(name).__name__} {name}" for name in names)):
        content = word.encode(errors="surrogateescape")
        hashed.update(len(content).to_bytes(8, "little") + content)
    key = np.frombuffer(hashed.digest(), "<u8").astype(np.uint64)
    stream: npt.NDArray[np.uint64] = np.random.Philox(key=key).random_raw(count)
    return stream


def random_bytes(seed: int, size: int, *names: str | int) -> npt.NDArray[np.uint8]:
    """Make `size` bytes, uniform in 0..255: the numbers of :func:`random_uint64`, each little-endian."""
    return random_uint64(-(-size // 8), seed, *names).astype("<u8").view(np.uint8)[:size]


def random_below(limit: int, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Turn numbers of :func:`random_uint64` into integers in 0..limit-1.

    The modulo favors none by more than limit / 2**64.
    """
    return (numbers % np.uint64(limit)).astype(np.int64)


def uniform(count: int, seed: int, *names: str | int) -> npt.NDArray[np.float64]:
    """Make `count` numbers in [0, 1), of 53 bits each; `seed` and `names` as of :func:`random_uint64`."""
    return (random_uint64(count, seed, *names) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(count: int, seed: int, *names: str | int) -> npt.NDArray[np.float64]:
    """Make `count` numbers of mean 0 and variance 1; `seed` and `names` as of :func:`random_uint64`.

    Box and Muller, "A note on the generation of random normal deviates", Annals of Mathematical Statistics 1958. The
    last digits are those of this platform's logarithm and cosine.
    """
    pairs = uniform(2 * ((count + 1) // 2), seed, *names).reshape(-1, 2)
    radius = np.sqrt(-2 * np.log1p(-pairs[:, 0]))
    angle = 2 * np.pi * pairs[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel()[:count]


def random_permutation(count: int, seed: int, *names: str | int) -> npt.NDArray[np.int64]:
    """Return 0..count-1 in random order: each ranks by a random number."""
    return np.argsort(random_uint64(count, seed, *names), kind="stable").astype(np.int64)
