"""Names of TensorFlow's and Keras' classes for annotations, at no import of either.

mypy has no type information of the two, so that these are Any to it; to a reader and an
editor they are the classes.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import tf_keras
    from tensorflow.core.framework.graph_pb2 import GraphDef
    from tensorflow.core.framework.node_def_pb2 import NodeDef
    from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, SignatureDef

    KerasModel: TypeAlias = tf_keras.Model
else:
    GraphDef = KerasModel = MetaGraphDef = NodeDef = SignatureDef = Any

__all__ = ["GraphDef", "KerasModel", "MetaGraphDef", "NodeDef", "SignatureDef"]
