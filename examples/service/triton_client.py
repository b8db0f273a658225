"""Synthesize images with a running service, through tritonclient.

pip install 'tritonclient[http]'
m2l serve &
python examples/service/triton_client.py 127.0.0.1:8000
"""

import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException


def main() -> None:
    """Ask in several ways, and show that the answers are the same."""
    client = triton.InferenceServerClient(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000")
    print("ready:", client.is_server_ready(), client.is_model_ready("m2l"))
    _, height, width = client.get_model_metadata("m2l")["inputs"][0]["shape"]
    rows, columns = np.ogrid[:height, :width]
    disc = np.hypot(rows - height / 2, columns - width / 2) < height / 4
    masks = np.where(np.stack([disc, disc[::-1]]), np.uint8(255), np.uint8(0))

    def ask(binary: bool, **options: object) -> np.ndarray:
        mask = triton.InferInput("mask", list(masks.shape), "UINT8")
        mask.set_data_from_numpy(masks, binary_data=binary)
        image = triton.InferRequestedOutput("image", binary_data=binary)
        images: np.ndarray = client.infer("m2l", [mask], outputs=[image], **options).as_numpy("image")
        return images

    images = ask(binary=True)
    print("images:", images.shape, images.dtype)
    print("as JSON the same:", np.array_equal(images, ask(binary=False)))
    print("in gzip the same:", np.array_equal(images, ask(binary=True, request_compression_algorithm="gzip")))
    if len(client.get_model_metadata("m2l")["inputs"]) > 1:  # where the generator takes more than the mask
        parameters = {"seed": 7, "samples": 3, "names": "a,b", "appearance": "lesion_L=35"}
        print("samples:", ask(binary=True, parameters=parameters).shape)
    print("images made:", client.get_inference_statistics("m2l")["model_stats"][0]["inference_count"])
    try:
        ask(binary=True, parameters={"seed": -1})
    except InferenceServerException as error:
        print("refused:", error)


if __name__ == "__main__":
    main()
