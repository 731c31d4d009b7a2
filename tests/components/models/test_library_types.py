"""Names of TensorFlow's and Keras' classes for annotations."""

import subprocess
import sys


def test_the_names_import_neither_tensorflow_nor_keras() -> None:
    code = (
        "import sys, paring.models.library_types as types\n"
        "print(sorted({'tensorflow', 'tf_keras', 'keras'} & set(sys.modules)), types.KerasModel)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] typing.Any"
