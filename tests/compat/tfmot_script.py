"""A script for tfmot, after the guide on its site. Tests run it as it stands where tfmot is installed; on
Keras 3 they run it with two other import lines, and nothing else changed.
"""

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras


def network():
    x = inputs = keras.Input((12, 12, 3), name="image")
    x = keras.layers.Conv2D(8, 3, use_bias=False)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.DepthwiseConv2D(3, activation="relu")(x)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dropout(0.2)(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


def compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    return model


def run(folder):
    """Returns the accuracy of the pruned model, the stripped model, and what is in the TFLite file."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 256)
    images = (rng.normal(size=(256, 12, 12, 3)) + labels[:, None, None, None]).astype("float32")

    model = compiled(network())
    model.fit(images, labels, batch_size=32, epochs=1, verbose=0)

    batch_size, epochs = 32, 4
    end_step = np.ceil(len(images) / batch_size).astype(np.int32) * epochs
    pruning_params = {
        "pruning_schedule": tfmot.sparsity.keras.PolynomialDecay(
            initial_sparsity=0.50, final_sparsity=0.80, begin_step=0, end_step=end_step, frequency=4
        )
    }
    model_for_pruning = tfmot.sparsity.keras.prune_low_magnitude(model, **pruning_params)
    compiled(model_for_pruning)
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
    model_for_pruning.fit(
        images, labels, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=callbacks
    )
    _, accuracy = model_for_pruning.evaluate(images, labels, verbose=0)

    keras.models.save_model(model_for_pruning, str(folder / "pruned.keras"))
    with tfmot.sparsity.keras.prune_scope():
        loaded = keras.models.load_model(str(folder / "pruned.keras"))
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), model_for_pruning.predict(images, verbose=0)
    )

    model_for_export = tfmot.sparsity.keras.strip_pruning(loaded)
    converter = tf.lite.TFLiteConverter.from_keras_model(model_for_export)
    (folder / "pruned.tflite").write_bytes(converter.convert())
    return accuracy, model_for_export
