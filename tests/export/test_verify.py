"""Files whose images depend on the batch do not pass as the file that a bundle was made with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from support import replace_file

from m2l_runtime.bundle.io import open_bundle
from m2l_runtime.verify import replay_golden


def test_verify__images_that_depend_on_others_of_their_batch_differ(bundle_copy: Path) -> None:
    """Reverse the order of a batch, which one image alone does not show."""
    (before,) = (one for one in replay_golden(open_bundle(bundle_copy)) if one.device == "cpu")
    assert before.agrees
    name = open_bundle(bundle_copy).manifest.models[0].file.path
    model = onnx.load(bundle_copy / name)
    image = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["in_order" if output == image else output for output in node.output]
    bounds = {"starts": -1, "ends": -(2**63) + 1, "axes": 0, "steps": -1}
    model.graph.initializer.extend(numpy_helper.from_array(np.array([n], np.int64), k) for k, n in bounds.items())
    model.graph.node.append(helper.make_node("Slice", ["in_order", *bounds], [image]))
    replace_file(bundle_copy, name, model.SerializeToString())
    (after,) = (one for one in replay_golden(open_bundle(bundle_copy)) if one.device == "cpu")
    assert not after.agrees
    assert after.worst_psnr_db is not None
