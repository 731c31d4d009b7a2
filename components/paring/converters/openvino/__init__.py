"""Conversion of ONNX files, SavedModels and TFLite files to OpenVINO."""
