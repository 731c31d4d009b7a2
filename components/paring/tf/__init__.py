"""Functions on live TensorFlow objects, shared by the steps."""
