"""The race: ResNet-20 on CIFAR-10, pruned to half its MACs by every criterion of the package.

    python examples/compare_criteria_cifar10.py --data-dir folder/with/cifar10-tfrecords

Every criterion gets the same trained network, the same images to score by, the same widths and the same
fine-tuning. The controls are random pruning and `scratch`, the same small network trained from new weights
for all the epochs that the pruned networks have seen. How well each criterion ranks channels is told, too, as
its rank correlation with the oracle: what the loss really does without a channel. Stop at any time; the same
command goes on. Without the data the script falls back to scikit-learn's digits.
"""

import functools
from pathlib import Path

import datasets
import keras
import numpy as np
import studies
from absl import flags

import tfcompress
from tfcompress import analysis, criteria

flags.DEFINE_string("data_dir", None, "Folder of cifar10-train.tfrecord and cifar10-validation.tfrecord.")
flags.DEFINE_string("out_dir", "compare_criteria_cifar10", "Where results and trained networks go.")
flags.DEFINE_integer("width", 8, "Filters of the first stage; the paper's ResNet-20 has 16.")
flags.DEFINE_integer("depth", 20, "Layers of the network: 6 n + 2.")
flags.DEFINE_integer("epochs", 8, "Epochs of training before pruning.")
flags.DEFINE_integer("tune_epochs", 2, "Epochs of training that follow, for every method alike.")
flags.DEFINE_float("macs", 0.5, "The share of MACs that stays.")
flags.DEFINE_integer("scored", 1000, "Training images by which criteria score.")
flags.DEFINE_integer("ranked", 500, "Of these, how many the oracle and its rank correlations take.")
flags.DEFINE_list("criteria", None, "Which criteria; by default all of them.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights, batches and random pruning.")
FLAGS = flags.FLAGS

TUNE_RATE = 0.02  # fixed beforehand, as in prune_cifar10.py


def main(argv: list[str]) -> None:
    del argv
    images = datasets.load(FLAGS.data_dir)
    out = Path(FLAGS.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    names, seeds = FLAGS.criteria or criteria.names(), [int(seed) for seed in FLAGS.seeds]
    scored = tuple(array[: FLAGS.scored] for array in images.train)
    ranked = tuple(array[: FLAGS.ranked] for array in images.train)
    network = functools.partial(trained, images, out)
    facts = studies.Results(out / "ranks.json", settings(images), ("seed",))
    for seed in seeds:
        facts.once(functools.partial(ranks, network, seed, names, ranked), seed=seed)
        found = tfcompress.compare(
            network,
            {name: criteria.get(name) for name in names},
            scored,
            {"macs": FLAGS.macs},
            lambda small: studies.train(small, images, FLAGS.tune_epochs, TUNE_RATE),
            seeds[: seeds.index(seed) + 1],
            evaluate=lambda model: studies.accuracy(model, images),
            scratch=lambda small: studies.train(
                small, images, FLAGS.epochs + FLAGS.tune_epochs, studies.RATE
            ),
            path=out / "results.json",
        )
        report(found, facts.runs, out)


def trained(images: datasets.Images, out: Path, seed: int) -> keras.Model:
    """The dense network of a seed."""
    return studies.resnet(images, out, seed, FLAGS.width, FLAGS.epochs, FLAGS.depth)


def ranks(network, seed: int, names: list[str], ranked: tuple) -> dict:
    """Criterion -> its rank correlation with the oracle, over all channels and within groups."""
    found = analysis.rank_correlation(network(seed), names, ranked)
    return {
        "overall": {name: value.overall for name, value in found.items()},
        "within": {name: value.mean for name, value in found.items()},
    }


def settings(images: datasets.Images) -> dict:
    return studies.settings(
        images,
        network=f"ResNet-{FLAGS.depth}, width {FLAGS.width}",
        epochs=FLAGS.epochs,
        tune_epochs=FLAGS.tune_epochs,
        macs=FLAGS.macs,
        scored=FLAGS.scored,
        ranked=FLAGS.ranked,
        rate=studies.RATE,
        tune_rate=TUNE_RATE,
    )


def report(found: tfcompress.pruning.Comparison, facts: list[dict], out: Path) -> None:
    rows = []
    for row in found.rows:
        runs = [run for run in found.runs if run["method"] == row["method"]]
        cuts = [run for run in runs if run["after_cut"] is not None]
        correlations = [
            f"{np.mean([fact[scope][row['method']] for fact in facts]):.2f}"
            if row["method"] in facts[0][scope]
            else ""
            for scope in ("within", "overall")
        ]
        counts = (f"{row[key]:,.0f}" for key in ("params", "macs"))
        rows.append(
            [
                row["method"],
                str(row["seeds"]),
                studies.spread(runs, "value"),
                studies.spread(cuts, "after_cut"),
                *correlations,
                *counts,
            ]
        )
    columns = (
        "method",
        "seeds",
        "accuracy",
        "after cut",
        "rank in layers",
        "rank over all",
        "params",
        "MACs",
    )
    title = "Accuracy in %, mean ± standard deviation over seeds; rank correlation with the oracle"
    studies.write_table(title, columns, rows, out / "table.txt")
    found.plot(out / "accuracy.png")


if __name__ == "__main__":
    studies.run(main)
