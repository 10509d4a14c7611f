"""The verbs: a model in, a smaller model out."""

import functools

import keras
import numpy as np
import pytest
from keras import layers
from small_models import MODELS
from surgery import outputs_of, randomize, relative_error

import tfcompress
from tfcompress import analysis, channels, criteria
from tfcompress.selection import Cutoff, Selection


def network() -> keras.Model:
    x = i = keras.Input((10, 10, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, name="first")(x)))
    y = layers.Conv2D(16, 3, padding="same", activation="relu", name="branch")(x)
    x = layers.Add()([x, layers.Conv2D(16, 3, padding="same", name="back")(y)])
    x = layers.Conv2D(32, 3, activation="relu", name="last")(x)
    x = layers.Dense(4, activation="softmax", name="head")(layers.GlobalAveragePooling2D()(x))
    model = randomize(keras.Model(i, x))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 10, 10, 3)).astype("float32"), rng.integers(0, 4, 32)


def widths(model: keras.Model) -> list[int]:
    return [model.get_layer(name).filters for name in ("first", "branch", "back", "last")]


def test_prune_keeps_the_filters_with_the_highest_scores():
    model = network()
    small = tfcompress.prune(model, "l1", sparsity=0.5)
    assert widths(small) == [8, 8, 8, 16]
    scores = np.abs(model.get_layer("branch").kernel.numpy()).sum((0, 1, 2))
    removed = next(r for r in small.removed if r.group == "branch")
    assert (removed.before, removed.after) == (16, 8)
    assert set(removed.layers["branch"]) == set(np.argsort(scores)[:8])


def test_coupled_layers_lose_the_same_channels_by_their_pooled_score():
    model = network()
    scores = {n: np.abs(model.get_layer(n).kernel.numpy()).sum((0, 1, 2)) for n in ("first", "back")}
    for pool, join in (("mean", np.add), ("max", np.maximum)):
        small = tfcompress.prune(model, "l1", sparsity=0.5, selection=Selection(pool=pool))
        removed = next(r for r in small.removed if r.group == "first").layers
        assert removed["first"].tolist() == removed["back"].tolist()
        assert set(removed["first"]) == set(np.argsort(join(scores["first"], scores["back"]))[:8])


def test_include_exclude_and_dicts_take_names_and_patterns():
    model = network()
    assert widths(tfcompress.prune(model, "l1", sparsity=0.5, include="branch")) == [16, 8, 16, 32]
    assert widths(tfcompress.prune(model, "l1", sparsity=0.5, exclude=["b.*ch"])) == [8, 16, 8, 16]
    assert widths(tfcompress.prune(model, "l1", sparsity={"la.t": 0.75, ".*": 0.25})) == [12, 12, 12, 8]


@pytest.mark.parametrize("scope", ["group", "global"])
@pytest.mark.parametrize(("cost", "limit"), [("macs", 0.5), ("params", 4000), ("bytes", 0.4)])
def test_budget_is_met_and_not_by_far(cost, limit, scope):
    model = network()

    def spent(m):
        totals = analysis.summary(m).totals
        return {"macs": totals["macs"], "params": totals["params"], "bytes": totals["weight_bytes"]}[cost]

    allowed = limit * spent(model) if limit <= 1 else limit
    small = tfcompress.prune(model, "l1", budget={cost: limit}, selection=Selection(scope=scope, round_to=1))
    assert 0.8 * allowed < spent(small) <= allowed


def test_budget_that_cannot_be_met_says_what_can():
    with pytest.raises(ValueError, match=r"cannot be met.*the least is params \d"):
        tfcompress.prune(network(), "l1", budget={"params": 10})


def test_budget_of_macs_takes_the_size_that_a_model_leaves_open():
    x = keras.Input((None, None, 3))
    y = keras.layers.Conv2D(16, 3, activation="relu", name="stem")(x)
    y = keras.layers.Conv2D(16, 3, name="body")(y)
    model = keras.Model(x, keras.layers.GlobalAveragePooling2D()(y))
    with pytest.raises(ValueError, match="leaves its input size open.*input_shape="):
        tfcompress.prune(model, "l1", budget={"macs": 0.5})
    budget = tfcompress.pruning.Budget({"macs": 0.5}, input_shape=(12, 12, 3))
    whole = tfcompress.analysis.macs(model, (12, 12, 3))
    for small in (
        tfcompress.prune(model, "l1", budget=budget),
        tfcompress.prune_layerwise(model, "l1", budget=budget, retrain=None, verbose=False),
    ):
        assert 0.4 * whole < tfcompress.analysis.macs(small, (12, 12, 3)) <= 0.5 * whole


def test_budget_larger_than_the_model_removes_nothing():
    assert widths(tfcompress.prune(network(), "l1", budget={"params": 1e9})) == [16, 16, 16, 32]


def test_cutoff_removes_dead_channels_by_apoz():
    model = network()
    layer = model.get_layer("branch")
    kernel, bias = layer.get_weights()
    kernel[..., [2, 5]], bias[:] = 0, 0.5
    bias[[2, 5]] = -1
    layer.set_weights([kernel, bias])
    x, _ = data()
    small = tfcompress.prune(model, "apoz", sparsity=Cutoff(1.0), data=x, include="branch")
    assert {2, 5} <= set(next(iter(small.removed)).layers["branch"])


def test_removing_a_channel_that_is_never_active_changes_nothing():
    model = network()
    layer = model.get_layer("branch")
    kernel, bias = layer.get_weights()
    kernel[..., 3], bias[3] = 0, -1
    layer.set_weights([kernel, bias])
    x, _ = data()
    scores = criteria.APoZ().score(model, ["branch"], x)["branch"]
    assert scores[3] == 0
    graph = channels.trace(model)
    small = channels.shrink(model, graph, {"branch": np.arange(16) != 3})
    assert relative_error(outputs_of(model, [x]), outputs_of(small, [x])) < 1e-5


def test_greedy_equals_independent_when_nothing_upstream_goes():
    model = network()
    for greedy in (False, True):
        small = tfcompress.prune(model, "l1", sparsity={"first": 0.5}, greedy=greedy)
        kept = np.setdiff1d(np.arange(16), next(iter(small.removed)).layers["first"])
        expected = tfcompress.prune(model, "l1", sparsity={"first": 0.5})
        assert (
            kept.tolist()
            == np.setdiff1d(np.arange(16), next(iter(expected.removed)).layers["first"]).tolist()
        )


def test_greedy_leaves_out_kernels_on_maps_that_are_gone():
    model = network()
    kernel, bias = model.get_layer("branch").get_weights()
    first = model.get_layer("first").get_weights()
    back = model.get_layer("back").get_weights()
    for weights in (first, back):
        weights[0][..., 8:] *= 1e-3  # these maps will go
    model.get_layer("first").set_weights(first)
    model.get_layer("back").set_weights(back)
    kernel[:, :, 8:, 0] = 100.0  # all weight of filter 0 is on them
    kernel[:, :, :8, 0] = 0.0
    model.get_layer("branch").set_weights([kernel, bias])
    apart, in_turn = (
        next(
            r
            for r in tfcompress.prune(model, "l1", sparsity=0.5, greedy=greedy).removed
            if r.group == "branch"
        )
        for greedy in (False, True)
    )
    assert 0 not in apart.layers["branch"] and 0 in in_turn.layers["branch"]
    assert apart.after == in_turn.after


def test_layerwise_calls_retrain_once_per_layer_with_a_compiled_model():
    model, (x, y) = network(), data()
    seen = []

    def retrain(small):
        seen.append(widths(small))
        small.fit(x, y, epochs=1, verbose=0)

    small = tfcompress.prune_layerwise(model, "entropy", sparsity=0.5, data=x, retrain=retrain, verbose=False)
    assert seen == [[8, 16, 8, 32], [8, 8, 8, 32], [8, 8, 8, 16]]
    assert [removal.group for removal in small.removed] == ["first", "branch", "last"]
    assert widths(small) == [8, 8, 8, 16] and widths(model) == [16, 16, 16, 32]
    assert small.fit(x, y, verbose=0).history["loss"]


def test_layerwise_goes_in_the_order_asked_for():
    orders = {"backward": ["last", "branch", "first"]}
    for order, expected in {**orders, ("branch", "last"): ["branch", "last"]}.items():
        order = order if isinstance(order, str) else list(order)
        small = tfcompress.prune_layerwise(
            network(), "l1", sparsity=0.5, retrain=None, order=order, verbose=False
        )
        assert [removal.group for removal in small.removed] == expected


def test_layerwise_meets_a_budget():
    model = network()
    small = tfcompress.prune_layerwise(model, "l1", budget={"macs": 0.5}, retrain=None, verbose=False)
    assert analysis.macs(small) <= 0.5 * analysis.macs(model)


def test_layerwise_prunes_groups_bound_by_a_balance_together():
    model = randomize(MODELS["shufflenet_units"]())
    small = tfcompress.prune_layerwise(
        model, "l1", sparsity=0.5, retrain=None, verbose=False, selection=Selection(round_to=1)
    )
    assert small.count_params() < 0.6 * model.count_params()


def test_layerwise_reports_each_step(capsys):
    tfcompress.prune_layerwise(network(), "l1", sparsity=0.5, retrain=None)
    assert "[2/3] branch: 16 → 8 channels" in capsys.readouterr().out


def pooled(x, name: str = "head"):
    return layers.Dense(3, name=name)(layers.GlobalAveragePooling2D()(x))


def grouped(channels_in: int = 8, conv_groups: int = 4) -> keras.Model:
    """A convolution `a`, and a grouped one `g` that reads it."""
    i = keras.Input((8, 8, 3))
    x = layers.Conv2D(channels_in, 3, name="a")(i)
    return randomize(keras.Model(i, pooled(layers.Conv2D(16, 3, groups=conv_groups, name="g")(x))))


@pytest.mark.parametrize(("order", "steps"), [("forward", 1), ("backward", 2)])
def test_layerwise_leaves_one_input_per_group_of_a_grouped_convolution(order, steps):
    retrained = []
    small = tfcompress.prune_layerwise(
        grouped(), "l1", sparsity=0.5, retrain=retrained.append, order=order, verbose=False
    )
    assert {r.group: (r.before, r.after) for r in small.removed} == {"a": (8, 4), "g": (16, 8)}
    assert (small.get_layer("a").filters, small.get_layer("g").filters) == (4, 8)
    assert len(retrained) == steps


def of_shuffled_halves() -> keras.Model:
    """Convolution `conv`, shuffled and split: its halves are the groups `conv` and `conv/2`."""
    i = keras.Input((8, 8, 3))
    x = tfcompress.layers.ChannelShuffle(8)(layers.Conv2D(16, 1, name="conv")(i))
    first, second = keras.ops.split(x, 2, axis=-1)
    outputs = [pooled(layers.Conv2D(8, 1, name="reader")(first)), pooled(second, "side")]
    return randomize(keras.Model(i, layers.Concatenate()(outputs)))


def test_layerwise_finds_groups_again_whose_names_have_shifted():
    model = of_shuffled_halves()
    kernel, bias = model.get_layer("conv").get_weights()
    kernel[..., 0] = 0  # goes first, so that the other half's channel becomes the layer's first
    model.get_layer("conv").set_weights([kernel, bias])
    graph = channels.trace(model)
    halves = {name: graph[name].layers["conv"].ravel() for name in ("conv", "conv/2")}
    assert 0 in halves["conv"]
    small = tfcompress.prune_layerwise(model, "l1", sparsity=0.5, retrain=None, verbose=False, include="conv")
    scores = np.abs(kernel).sum((0, 1, 2))
    expected = {name: sorted(half[np.argsort(scores[half])[:4]].tolist()) for name, half in halves.items()}
    assert {r.group: r.layers["conv"].tolist() for r in small.removed} == expected
    lost = sorted(expected["conv"] + expected["conv/2"])
    assert (small.get_layer("conv").kernel.numpy() == np.delete(kernel, lost, -1)).all()


def test_removals_are_numbered_as_in_the_model_that_was_given():
    model = randomize(MODELS["shufflenet_units"]())
    kernels = {layer.name: layer.kernel.numpy() for layer in model.layers if isinstance(layer, layers.Conv2D)}
    small = tfcompress.prune_layerwise(
        model, "l1", sparsity=0.5, retrain=None, verbose=False, selection=Selection(round_to=1)
    )
    lost: dict[str, list[int]] = {}
    for removal in small.removed:
        for path, outputs in removal.layers.items():
            lost[path] = lost.get(path, []) + outputs.tolist()
    for path, kernel in kernels.items():
        left = np.delete(np.arange(kernel.shape[-1]), lost.get(path, []))
        assert small.get_layer(path).filters == len(left)
    assert np.array_equal(
        small.layers[1].kernel.numpy(),
        np.delete(kernels[small.layers[1].name], lost[small.layers[1].name], -1),
    )


def partly_normalized() -> keras.Model:
    """BatchNormalization follows the convolutions `a` and `c`, and not `b`."""
    x = i = keras.Input((8, 8, 3))
    x = layers.Conv2D(32, 3, name="a", activation="relu")(layers.Conv2D(32, 3, name="b")(x))
    x = layers.Conv2D(32, 1, name="c")(layers.BatchNormalization()(x))
    return randomize(keras.Model(i, pooled(layers.ReLU()(layers.BatchNormalization()(x)))))


def verbs():
    def layerwise(*args, **kwargs):
        return tfcompress.prune_layerwise(*args, retrain=None, verbose=False, **kwargs)

    return {"prune": tfcompress.prune, "prune_layerwise": layerwise}


@pytest.mark.parametrize("verb", verbs())
def test_budget_is_met_by_the_groups_that_the_criterion_scores(verb):
    model = partly_normalized()
    small = verbs()[verb](model, "bn_scale", budget={"params": 0.5}, selection=Selection(round_to=1))
    assert 0.4 * model.count_params() < small.count_params() <= 0.5 * model.count_params()
    assert small.get_layer("b").filters == 32
    assert small.removed.untouched["b"] == "criterion 'bn_scale' does not score it"


@pytest.mark.parametrize("verb", verbs())
def test_budget_that_the_scored_groups_cannot_meet_is_refused(verb):
    with pytest.raises(ValueError, match="cannot be met"):
        verbs()[verb](partly_normalized(), "bn_scale", budget={"params": 0.1})


def test_layerwise_goes_through_the_groups_that_a_dict_names_and_no_others():
    retrained = []
    small = tfcompress.prune_layerwise(
        network(), "l1", sparsity={"branch": 0.5}, retrain=retrained.append, verbose=False
    )
    assert [removal.group for removal in small.removed] == ["branch"] and len(retrained) == 1
    assert small.removed.untouched["last"] == "not selected"


@pytest.mark.parametrize("verb", ["greedy", "layerwise"])
def test_data_that_can_be_read_only_once_is_enough_for_all_steps(verb):
    model, (x, _) = network(), data()
    prune = {
        "greedy": functools.partial(tfcompress.prune, greedy=True),
        "layerwise": verbs()["prune_layerwise"],
    }
    expected = prune[verb](model, "entropy", sparsity=0.5, data=x)
    batches = (x[start : start + 8] for start in range(0, 32, 8))
    assert str(prune[verb](model, "entropy", sparsity=0.5, data=batches).removed) == str(expected.removed)


@pytest.mark.parametrize("layer", ["last", "head"])
@pytest.mark.parametrize("criterion", ["l1", "random"])
@pytest.mark.parametrize("verb", verbs())
def test_weight_that_is_not_a_number_is_refused_wherever_it_is(verb, criterion, layer):
    model = network()
    kernel, *rest = model.get_layer(layer).get_weights()
    kernel.flat[0] = np.nan
    model.get_layer(layer).set_weights([kernel, *rest])
    with pytest.raises(ValueError, match=f"Layer '{layer}' has NaN or infinite weights in its kernel"):
        verbs()[verb](model, criterion, sparsity=0.5)


def test_layerwise_is_quiet_if_asked_to(capsys):
    tfcompress.prune_layerwise(network(), "l1", sparsity=0.5, retrain=None, verbose=False)
    assert capsys.readouterr() == ("", "")


def test_layerwise_shows_a_bar_on_a_terminal_and_leaves_it_to_retrain(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    tfcompress.prune_layerwise(network(), "l1", sparsity=0.5, retrain=lambda m: print("training"))
    shown = capsys.readouterr().out
    assert "━" in shown and shown.count("training") == 3 and "[2/3] branch: 16 → 8 channels" in shown


def test_result_says_what_stayed_and_why():
    small = tfcompress.prune(network(), "l1", sparsity=0.5, exclude="last")
    assert small.removed.untouched == {
        "last": "not selected",
        "head": "the activation of 'head' looks across channels",
    }
    assert "branch" in str(small.removed)


def test_any_function_is_a_criterion():
    def by_index(model, layers, data):
        return {path: np.arange(model.get_layer(path).filters, dtype=float) for path in layers}

    small = tfcompress.prune(network(), by_index, sparsity=0.5)
    assert next(iter(small.removed)).layers["first"].tolist() == list(range(8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"criterion": "entopy", "sparsity": 0.5}, "Did you mean 'entropy'"),
        ({"criterion": "l1"}, "either sparsity or budget"),
        ({"criterion": "l1", "sparsity": 0.5, "budget": {"macs": 0.5}}, "either sparsity or budget"),
        ({"criterion": "l1", "sparsity": 1.0}, r"\[0, 1\)"),
        ({"criterion": "l1", "sparsity": 0.5, "include": "fist"}, "Did you mean 'first'"),
        ({"criterion": "l1", "sparsity": {"fist": 0.5}}, "Did you mean 'first'"),
        ({"criterion": "l1", "sparsity": 0.5, "exclude": ".*"}, "Nothing can be pruned"),
        ({"criterion": "l1", "budget": {"mac": 0.5}}, "Did you mean 'macs'"),
        ({"criterion": "l1", "budget": {"macs": 0}}, "must be a number above 0"),
        ({"criterion": "l1", "budget": 0.5}, "A budget is a dict"),
        ({"criterion": "apoz", "sparsity": 0.5}, "pass data"),
        ({"criterion": "apoz", "sparsity": 0.5, "data": np.zeros((4, 3, 3, 3))}, "wants batches of shape"),
        ({"criterion": 3, "sparsity": 0.5}, "Expected a criterion"),
        ({"criterion": lambda *_: {"first": np.zeros(3)}, "sparsity": 0.5}, "one per filter"),
        ({"criterion": lambda *_: {}, "sparsity": 0.5}, "scores none"),
        ({"criterion": lambda *_: None, "sparsity": 0.5}, "gave NoneType, expected a dict"),
        ({"criterion": lambda *_: {"first": np.ones(20)}, "sparsity": 0.5}, r"shape \(16,\), one per filter"),
        ({"criterion": lambda *_: {"first": np.full(16, np.nan)}, "sparsity": 0.5}, "gave NaN"),
        ({"criterion": lambda *_: {"first": np.full(16, "x")}, "sparsity": 0.5}, "one per filter"),
        ({"criterion": {"name": "entropy", "bin": 3}, "sparsity": 0.5}, "argument 'bin'"),
        ({"criterion": "l1", "sparsity": {}}, "empty dict"),
        ({"criterion": "l1", "sparsity": {"head": 0.5}}, "Nothing can be pruned.*head: the activation"),
        ({"criterion": "l1", "sparsity": {3: 0.5}}, "layer name or regular expression"),
        ({"criterion": "l1", "sparsity": Cutoff}, "function such as Cutoff"),
        ({"criterion": "l1", "sparsity": lambda scores: 3}, "gives a bool array"),
        (
            {"criterion": "l1", "sparsity": {"first": 0.5}, "selection": Selection(scope="global")},
            "ranks all groups together",
        ),
        ({"criterion": "l1", "sparsity": 0.5, "include": "first("}, "Did you mean 'first'"),
        ({"criterion": "l1", "sparsity": 0.5, "include": 3}, "layer name or regular expression"),
        ({"criterion": "l1", "sparsity": 0.5, "exclude": ["first", 3]}, "layer name or regular expression"),
        ({"criterion": "l1", "budget": {"params": "a"}}, "must be a number"),
        ({"criterion": "l1", "budget": {"params": 0.5}, "greedy": True}, "greedy=True needs a sparsity"),
        ({"criterion": "apoz", "sparsity": 0.5, "data": np.full((4, 10, 10, 3), "x")}, "holds text"),
    ],
)
def test_bad_input_is_refused_and_the_model_untouched(arguments, message):
    model = network()
    before = [weight.numpy() for weight in model.weights]
    with pytest.raises(ValueError, match=message):
        tfcompress.prune(model, arguments.pop("criterion"), **arguments)
    assert all((a == b.numpy()).all() for a, b in zip(before, model.weights, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"retrain": 3}, "function of the model"),
        ({"order": "sideways"}, "order must be"),
        ({"order": ["firts"]}, "order must be"),
        ({"order": ["last", "last"]}, "each once"),
        ({"order": 3}, "order must be"),
        ({"order": []}, "order must be"),
        ({"selection": Selection(scope="global")}, "no ranking over all layers"),
    ],
)
def test_bad_layerwise_input_is_refused_before_any_work(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfcompress.prune_layerwise(network(), "l1", **{"sparsity": 0.5, "retrain": pytest.fail, **arguments})


def test_model_with_nothing_to_prune_says_why():
    i = keras.Input((4,))
    model = keras.Model(i, layers.Dense(2, name="only")(i))
    with pytest.raises(ValueError, match="Nothing can be pruned. only: it makes the model's output"):
        tfcompress.prune(model, "l1", sparsity=0.5)
