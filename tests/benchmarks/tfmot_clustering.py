"""What bench_size.py runs where tfmot is: clusters a pruned network, zeros kept, and writes it as .tflite.

    python tfmot_clustering.py FOLDER NETWORK SEED DATA OUT

2^5 - 1 clusters, and as much training, with Adam, as `examples/deep_compression.py` gave shared values in
that folder.
"""

import json
import sys
from pathlib import Path

import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

import tfcompress
from tfcompress.export import legacy

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import datasets
import studies

CLUSTERS = 32  # one of them is zero


def main(folder: str, network: str, seed: str, data_dir: str, out: str) -> None:
    images = datasets.load(None if data_dir == "None" else data_dir)
    pruned = tfcompress.load_compressed(Path(folder, f"{network}-pruned-seed{seed}.tfc"))
    twin = legacy.twin(pruned).model
    clustering = tfmot.clustering.keras
    model = clustering.cluster_weights(
        twin,
        number_of_clusters=CLUSTERS,
        cluster_centroids_init=clustering.CentroidInitialization.KMEANS_PLUS_PLUS,
        preserve_sparsity=True,
    )
    plan = json.loads(Path(folder, "results.json").read_text())["settings"]["plans"][network]
    epochs = plan["epochs"][2]
    rate = tf_keras.optimizers.schedules.CosineDecay(1e-4, epochs * studies.steps_per_epoch(images))
    model.compile(tf_keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(studies.augmented(images), epochs=epochs, verbose=0)
    final = clustering.strip_clustering(model)
    Path(out, "model.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(final).convert())


if __name__ == "__main__":
    main(*sys.argv[1:])
