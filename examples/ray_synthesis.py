"""Write tars of lesions with Ray Data: on this machine with two actors, on a cluster with as many as it has CPUs.

    pip install '.[cpu,ray]' && python examples/ray_synthesis.py shapes:2000 lesions
    ray job submit --working-dir . -- python examples/ray_synthesis.py /shared/masks /shared/lesions 64

The third argument is the number of actors. On a cluster, masks and output lie in a folder that all machines share. The
tars are those of `m2l synth MASKS OUT --format webdataset`. The same command goes on with a run that was stopped.
"""

from __future__ import annotations

import sys

import ray
import ray.data

from m2l_runtime import OutputOptions
from m2l_runtime.ray_data import EngineOptions, LesionFileWriter, plan_files


def main(masks: str, out: str, actors: str = "2", masks_per_file: str = "100", backend: str = "auto") -> None:
    """Write the tars, tell what became of each mask, and end with status 3 if some were bad."""
    options = OutputOptions(format="webdataset", masks_per_file=int(masks_per_file))
    files = plan_files(masks, out, options, resume=True)
    settings = {"options": options, "resume": True, "engine": EngineOptions(backend=backend), "seed": 0}
    rows = ray.data.from_items(files, override_num_blocks=len(files)).map_batches(
        LesionFileWriter,
        fn_constructor_args=(masks, out),
        fn_constructor_kwargs=settings,
        batch_size=1,  # a file at a time: the unit that Ray calls again when a worker dies
        compute=ray.data.ActorPoolStrategy(size=int(actors)),
        num_cpus=1,
    )
    written, bad = 0, 0
    for row in rows.iter_rows():
        written += row["error"] is None
        if row["error"] is not None:
            bad += 1
            print(f"skipped {row['error']}")
    print(f"{written} images in {len(files)} tars, {bad} masks skipped")
    sys.exit(3 if bad else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
