"""TensorFlow Lite conversion and calibration."""
