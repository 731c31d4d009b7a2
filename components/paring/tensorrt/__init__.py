"""Building of TensorRT engines from ONNX, by TensorRT for servers or for RTX.

`building` has what both products share, `server` and `rtx` what differs. `driver` asks
the CUDA driver for the GPU, with Python's own library alone. NVIDIA's libraries and onnx are
imported late, where they are used.
"""
