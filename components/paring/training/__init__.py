"""Fine-tuning of Keras models, shared by the training steps."""
