"""Talk to Triton with its own client, over HTTP and gRPC: run by test_server.py, where tritonclient is.

    python client_session.py HTTP_PORT GRPC_PORT MASKS_NPY OUT_NPZ

Prints what it was answered as JSON, and writes images.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException


def main(http_port: str, grpc_port: str, masks_path: str, out: str) -> None:
    """Ask both, and say what came of it."""
    masks = np.load(masks_path)  # (3, H, W)
    arrays: dict[str, Any] = {}
    shown: dict[str, Any] = {}
    for name, library, port in (("http", triton_http, http_port), ("grpc", triton_grpc, grpc_port)):
        client = library.InferenceServerClient(f"127.0.0.1:{port}")

        def infer(
            mask: Any, parameters: Any = None, seeds: Any = None, library: Any = library, client: Any = client
        ) -> Any:
            inputs = [library.InferInput("mask", list(mask.shape), "UINT8")]
            inputs[0].set_data_from_numpy(mask)
            if seeds is not None:
                inputs.append(library.InferInput("seeds", list(seeds.shape), "UINT64"))
                inputs[-1].set_data_from_numpy(seeds)
            return client.infer("lesions", inputs, parameters=parameters)

        def refused(*arguments: Any, infer: Any = infer, **more: Any) -> str:
            try:
                infer(*arguments, **more)
            except InferenceServerException as error:
                return str(error.message())
            return "not refused"

        named = infer(masks[:2], {"seed": 7, "names": "a,b/c"})
        arrays[f"{name}_named"] = named.as_numpy("image")
        arrays[f"{name}_seeds"] = named.as_numpy("seeds")
        arrays[f"{name}_again"] = infer(masks[:2], seeds=named.as_numpy("seeds")).as_numpy("image")
        dark = infer(masks[:1], {"seed": 7, "names": "a", "appearance": "lesion_L=35"})
        arrays[f"{name}_dark"] = dark.as_numpy("appearance")
        mixed = infer(masks[1:3])  # the third is a photograph
        arrays[f"{name}_mixed"] = mixed.as_numpy("image")
        small = np.ascontiguousarray(masks[:1, ::2, ::2])
        arrays[f"{name}_small"] = infer(small, {"seed": 7, "names": "a"}).as_numpy("image")
        with ThreadPoolExecutor(8) as pool:
            if name == "http":  # a client of HTTP is for one thread
                replies = [infer(masks[:1], {"seed": place, "names": "a"}) for place in range(16)]
            else:
                replies = list(pool.map(lambda place: infer(masks[:1], {"seed": place, "names": "a"}), range(16)))
        arrays[f"{name}_many"] = np.concatenate([one.as_numpy("image") for one in replies])
        shown[name] = {
            "live": client.is_server_live(),
            "ready": client.is_model_ready("lesions"),
            "errors": [one.decode() for one in mixed.as_numpy("error").ravel()],
            "bad seed": refused(masks[:1], {"seed": -1}),
            "bad names": refused(masks[:2], {"names": "a"}),
            "bad appearance": refused(masks[:1], {"appearance": "shoe_size=43"}),
            "seeds and seed": refused(masks[:1], {"seed": 1}, np.ones((1, 1), np.uint64)),
            "bad type": refused(masks[:1, 0]),
            "too many": refused(np.repeat(masks[:1], 9, 0)),
            "after": client.is_model_ready("lesions"),
        }
    np.savez(out, **arrays)
    print(json.dumps(shown))


if __name__ == "__main__":
    main(*sys.argv[1:])
