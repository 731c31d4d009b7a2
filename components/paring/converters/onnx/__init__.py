"""ONNX and OpenVINO conversion."""
