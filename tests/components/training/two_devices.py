"""Run training steps in a process with two logical CPU devices.

    python two_devices.py MODEL EXAMPLES FOLDER JSON

JSON is {"NAME": ["STEP", {PARAMETERS}]}; FOLDER/NAME becomes what the step makes. The
devices have to be set up before TensorFlow starts, which it has in the process of the tests.
"""

import json
import sys
from pathlib import Path
from typing import Any

from paring.catalog import find
from paring.execution import Call, execute
from paring.models.quiet import quiet_tensorflow


def student(shape: tuple[int, ...], outputs: int) -> Any:
    """A network for `distill`, with a batch normalization."""
    import tf_keras

    return tf_keras.Sequential(
        [
            tf_keras.Input(shape),
            tf_keras.layers.Conv2D(8, 3, strides=4),
            tf_keras.layers.BatchNormalization(),
            tf_keras.layers.ReLU(),
            tf_keras.layers.Flatten(),
            tf_keras.layers.Dense(outputs, activation="softmax"),
        ]
    )


def main() -> None:
    """Run the steps."""
    quiet_tensorflow()
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    model, examples, folder = map(Path, sys.argv[1:4])
    for name, (step, parameters) in json.loads(sys.argv[4]).items():
        (output,) = find(step).outputs
        inputs = {"model": model, "examples": examples}
        execute(find(step), Call(inputs, {output: folder / name}, parameters))


if __name__ == "__main__":
    main()
