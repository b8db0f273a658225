"""Build plans from ONNX files with TensorRT or TensorRT for RTX, and run them on a GPU."""
