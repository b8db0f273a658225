"""List the modules that moved in 0.2.0, so that an import of an old name says the new one."""

from __future__ import annotations

from typing import Final

MOVED: Final = {
    "batches": "data.batches",
    "colours": "models.appearance",
    "commands": "cli",
    "configfile": "config_file",
    "datafolder": "data.data_folder",
    "decoded": "data.decoded_cache",
    "describe": "report",
    "duplicates": "data.near_duplicates",
    "evaluate.bootstrap": "evaluate.metrics.bootstrap",
    "evaluate.checkerboard": "evaluate.metrics.checkerboard",
    "evaluate.colour": "evaluate.metrics.color",
    "evaluate.commands": "evaluate.cli",
    "evaluate.describe": "evaluate.report",
    "evaluate.figures": "evaluate.registry",
    "evaluate.fidelity": "evaluate.metrics.mask_fidelity",
    "evaluate.inception": "evaluate.metrics.inception",
    "evaluate.kid": "evaluate.metrics.kid",
    "evaluate.neighbours": "evaluate.metrics.nearest_neighbors",
    "evaluate.paired": "evaluate.metrics.paired",
    "evaluate.variety": "evaluate.metrics.diversity",
    "evaluate.wasserstein": "evaluate.metrics.sliced_wasserstein",
    "loop": "training.trainer",
    "losses": "models.losses",
    "metrics": "training.metrics_log",
    "networks": "models.networks",
    "pairing": "data.pairing",
    "photograph": "data.photograph",
    "pix2pix": "models.pix2pix",
    "preparation": "data.prepare",
    "processes": "training.distributed",
    "runfolder": "training.run_folder",
    "validation": "training.validation",
}
"""New module by old module, both relative to this package."""
