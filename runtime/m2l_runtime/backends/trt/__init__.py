"""TensorRT and TensorRT for RTX: ONNX files to plans, and plans to engines on a card."""
