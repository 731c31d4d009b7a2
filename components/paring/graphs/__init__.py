"""Analysis and editing of TensorFlow graphs."""
