"""Models whose signatures take text or serialized tf.Examples, and examples for them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

COMPANIES = ("flash", "blue", "yellow")


def save_taxi(folder: Path) -> None:
    """Save a model in the shape of TFX's taxi template: parsing, vocabulary, normalization, layers.

    Its signature takes serialized tf.Examples of `fare`, `hour` and `company`, which may lack.
    """
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    fare = keras.Input((1,), name="fare")
    hour = keras.Input((1,), name="hour", dtype="int64")
    company = keras.Input((1,), name="company", dtype="string")
    scaled = keras.layers.Normalization(mean=10.0, variance=9.0)(fare)
    ids = keras.layers.StringLookup(vocabulary=list(COMPANIES))(company)
    features = [
        scaled,
        keras.layers.Flatten()(keras.layers.Embedding(24, 4)(hour)),
        keras.layers.Flatten()(keras.layers.Embedding(5, 3)(ids)),
    ]
    hidden = keras.layers.Dense(16, activation="relu")(keras.layers.Concatenate()(features))
    network = keras.Model(
        [fare, hour, company], keras.layers.Dense(1, activation="sigmoid")(hidden)
    )
    spec = {
        "fare": tf.io.FixedLenFeature([1], tf.float32, default_value=[0.0]),
        "hour": tf.io.FixedLenFeature([1], tf.int64),
        "company": tf.io.VarLenFeature(tf.string),
    }
    module = tf.Module()
    module.network = network

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(examples: Any) -> dict[str, Any]:
        parsed = tf.io.parse_example(examples, spec)
        sparse = parsed["company"]
        shape = [sparse.dense_shape[0], 1]
        dense = tf.sparse.to_dense(tf.SparseTensor(sparse.indices, sparse.values, shape), "")
        return {"outputs": network([parsed["fare"], parsed["hour"], dense])}

    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})


def save_review_classifier(folder: Path) -> None:
    """Save a model of TextVectorization, an embedding with a mask, and a dense layer."""
    import keras

    keras.utils.set_random_seed(1)
    review = keras.Input((1,), dtype="string", name="review")
    vectorize = keras.layers.TextVectorization(max_tokens=50, output_sequence_length=8)
    vectorize.adapt(["good film", "bad film", "a great story"])
    embedded = keras.layers.Embedding(50, 8, mask_zero=True)(vectorize(review))
    pooled = keras.layers.GlobalAveragePooling1D()(embedded)
    network = keras.Model(review, keras.layers.Dense(2, activation="softmax")(pooled))
    network.export(str(folder), verbose=False)


def save_wide_and_deep(folder: Path) -> None:
    """Save a wide and deep model of text, integer and float features."""
    import keras

    keras.utils.set_random_seed(2)
    color = keras.Input((1,), dtype="string", name="color")
    code = keras.Input((1,), dtype="int64", name="zip")
    age = keras.Input((1,), name="age")
    wide = keras.layers.Concatenate()(
        [
            keras.layers.StringLookup(vocabulary=["red", "green"], output_mode="one_hot")(color),
            keras.layers.IntegerLookup(vocabulary=[10, 20], output_mode="multi_hot")(code),
        ]
    )
    hashed = keras.layers.Embedding(16, 4)(keras.layers.Hashing(16)(color))
    deep = keras.layers.Concatenate()([keras.layers.Flatten()(hashed), age])
    deep = keras.layers.Dense(8, activation="relu")(deep)
    output = keras.layers.Dense(1)(keras.layers.Concatenate()([wide, deep]))
    keras.Model({"color": color, "zip": code, "age": age}, output).export(
        str(folder), verbose=False
    )


def save_estimator(folder: Path) -> None:
    """Save a SavedModel of TensorFlow 1 with a vocabulary file, as estimators export it.

    `serving_default` classifies: its classes are text. `predict` gives the likeliest class.
    """
    import tensorflow as tf

    tf1 = tf.compat.v1
    vocabulary = folder.with_name(f"{folder.name}-vocabulary.txt")
    vocabulary.write_text("a\nb\nc\n")
    with tf.Graph().as_default():
        serialized = tf1.placeholder(tf.string, [None], name="input_example_tensor")
        features = tf1.io.parse_example(
            serialized,
            {
                "x": tf1.io.FixedLenFeature([4], tf.float32),
                "c": tf1.io.FixedLenFeature([], tf.string, default_value=""),
            },
        )
        whole, line = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        reader = tf.lookup.TextFileInitializer(str(vocabulary), tf.string, whole, tf.int64, line)
        ids = tf.lookup.StaticVocabularyTable(reader, 2).lookup(features["c"])
        random = tf1.random_normal_initializer
        embedding = tf1.get_variable("emb", [5, 3], initializer=random(seed=1), use_resource=True)
        joined = tf.concat([features["x"], tf.nn.embedding_lookup(embedding, ids)], 1)
        kernel = tf1.get_variable("w", [7, 3], initializer=random(seed=2), use_resource=True)
        logits = tf.matmul(joined, kernel)
        scores = tf.nn.softmax(logits)
        names = tf.constant(["no", "yes", "maybe"])
        classes = tf.tile(tf.expand_dims(names, 0), [tf.shape(scores)[0], 1])
        likeliest = tf.gather(names, tf.argmax(logits, 1))
        with tf1.Session() as session:
            session.run([tf1.global_variables_initializer(), tf1.tables_initializer()])
            saving = tf1.saved_model
            builder = saving.Builder(str(folder))
            builder.add_meta_graph_and_variables(
                session,
                ["serve"],
                signature_def_map={
                    "serving_default": saving.classification_signature_def(
                        serialized, classes, scores
                    ),
                    "predict": saving.predict_signature_def(
                        {"examples": serialized}, {"scores": scores, "class": likeliest}
                    ),
                },
                assets_collection=[tf1.get_default_graph().get_tensor_by_name("asset_path:0")],
                main_op=tf1.tables_initializer(),
            )
            builder.save()


def taxi_rows(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield rows of the taxi model's features, and of a label `tips`; company may be None."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        hour = int(random.integers(0, 24))
        yield {
            "fare": float(np.float32(random.normal(10, 3))),
            "hour": hour,
            "company": (*COMPANIES, "other", None)[int(random.integers(0, 5))],
            "tips": int(hour > 11),
        }


def example_of(row: Mapping[str, Any]) -> bytes:
    """Return a row as a serialized tf.Example; None is left out."""
    import tensorflow as tf

    example = tf.train.Example()
    for name, value in row.items():
        feature = example.features.feature[name]
        if isinstance(value, str):
            feature.bytes_list.value.append(value.encode())
        elif isinstance(value, float):
            feature.float_list.value.append(value)
        elif value is not None:
            feature.int64_list.value.append(value)
    return bytes(example.SerializeToString())


def write_taxi_records(file: Path, count: int, seed: int = 0) -> None:
    """Write rows as TFRecords, packed where the name ends with .gz."""
    import tensorflow as tf

    file.parent.mkdir(parents=True, exist_ok=True)
    options = "GZIP" if file.suffix == ".gz" else ""
    with tf.io.TFRecordWriter(str(file), options) as writer:
        for row in taxi_rows(count, seed):
            writer.write(example_of(row))


def write_taxi_csv(file: Path, count: int, seed: int = 0) -> None:
    """Write rows as CSV; an empty field where a company lacks."""
    lines = ["fare,hour,company,tips"]
    for row in taxi_rows(count, seed):
        company = row["company"] or ""
        lines.append(f"{row['fare']!r},{row['hour']},{company},{row['tips']}")
    file.write_text("\n".join(lines) + "\n")
