"""What bench_size.py runs where tfmot is: clusters a pruned network, zeros kept, and writes it as .tflite.

    python tfmot_clustering.py FOLDER NETWORK SEED DATA OUT

As many clusters and as much training as `examples/deep_compression.py` gives shared values: 2^5 - 1, and one
epoch with Adam.
"""

import sys
from pathlib import Path

import keras
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from tfcompress.export import legacy

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import datasets
import studies

CLUSTERS = 32  # one of them is zero


def main(folder: str, network: str, seed: str, data_dir: str, out: str) -> None:
    images = datasets.load(None if data_dir == "None" else data_dir)
    pruned = keras.saving.load_model(Path(folder, f"{network}-pruned-seed{seed}.keras"), compile=False)
    twin = legacy.twin(pruned).model
    clustering = tfmot.clustering.keras
    model = clustering.cluster_weights(
        twin,
        number_of_clusters=CLUSTERS,
        cluster_centroids_init=clustering.CentroidInitialization.KMEANS_PLUS_PLUS,
        preserve_sparsity=True,
    )
    steps = studies.steps_per_epoch(images)
    rate = tf_keras.optimizers.schedules.CosineDecay(1e-4, steps)
    model.compile(tf_keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(studies.augmented(images), epochs=1, verbose=0)
    final = clustering.strip_clustering(model)
    Path(out, "model.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(final).convert())


if __name__ == "__main__":
    main(*sys.argv[1:])
