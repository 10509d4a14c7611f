"""One small model for each thing the channel graph has to follow."""

from collections.abc import Callable

import keras
from keras import Input, Model, layers, ops

from tfcompress.layers import ChannelShuffle

MODELS: dict[str, Callable[[], Model]] = {}

# Another size than that of the keys, which Keras 3.15 cannot do on JAX.
VALUE_DIM = 3 if keras.backend.backend() == "jax" else 5


def model(build: Callable[[], Model]) -> Callable[[], Model]:
    MODELS[build.__name__] = build
    return build


def _classify(x) -> object:
    return layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x))


def _image() -> object:
    return Input((12, 12, 3))


@model
def sequential():
    return keras.Sequential(
        [
            Input((12, 12, 3)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(8, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(10, activation="tanh"),
            layers.Dropout(0.3),
            layers.Dense(3),
        ]
    )


@model
def conv1d_with_recurrent_layers():
    i = Input((12, 3))
    x = layers.Conv1D(8, 3, padding="causal")(i)
    x = layers.LSTM(6, return_sequences=True)(x)
    x = layers.GRU(6, return_sequences=True)(x)
    x = layers.GRU(6, reset_after=False, return_sequences=True)(x)
    x = layers.SimpleRNN(5)(x)
    return Model(i, layers.Dense(2)(x))


@model
def lstm_with_state():
    i = Input((7, 3))
    sequence, hidden, cell = layers.LSTM(6, return_sequences=True, return_state=True)(i)
    x = layers.LSTM(6)(sequence, initial_state=[hidden, cell])
    return Model(i, layers.Dense(2)(x))


@model
def bidirectional():
    i = Input((7, 3))
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(i)
    x = layers.Bidirectional(layers.GRU(4, return_sequences=True), merge_mode="sum")(x)
    forward, backward = layers.Bidirectional(layers.LSTM(4), merge_mode=None)(x)
    return Model(i, layers.Dense(2)(layers.Concatenate()([forward, backward])))


@model
def bidirectional_with_states():
    i = Input((7, 3))
    sequence, *states = layers.Bidirectional(layers.LSTM(6, return_sequences=True, return_state=True))(i)
    x = layers.Bidirectional(layers.LSTM(6))(sequence, initial_state=states)
    return Model(i, layers.Dense(2)(x))


@model
def masked_words():
    i = Input((7,), dtype="int32")
    x = layers.Embedding(5, 8, mask_zero=True)(i)
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 3)(x, x)])
    x = layers.TimeDistributed(layers.Dense(6))(layers.Concatenate()([x, layers.Dropout(0.1)(x)]))
    return Model(i, layers.Dense(2)(layers.GRU(5)(x)))


@model
def conv3d():
    i = Input((6, 6, 6, 2))
    x = layers.Conv3D(8, 3, activation="relu")(i)
    x = layers.BatchNormalization(scale=False)(x)
    x = layers.MaxPooling3D()(x)
    x = layers.Conv3DTranspose(6, 2)(x)
    return Model(i, layers.Dense(2)(layers.GlobalMaxPooling3D()(x)))


@model
def transposes_and_upsampling():
    x = i = _image()
    x = layers.Conv2D(8, 3, strides=2)(x)
    x = layers.Conv2DTranspose(6, 3, strides=2, activation="relu")(x)
    x = layers.UpSampling2D()(x)
    x = layers.Cropping2D(2)(x)
    return Model(i, layers.Conv2D(3, 1)(x))


@model
def transposes_1d():
    i = Input((8, 3))
    x = layers.Conv1DTranspose(6, 3)(i)
    x = layers.UpSampling1D(2)(x)
    x = layers.AveragePooling1D(2)(layers.ZeroPadding1D()(x))
    x = layers.SeparableConv1D(8, 3, depth_multiplier=2)(x)
    x = layers.DepthwiseConv1D(3, depth_multiplier=2)(x)
    return Model(i, layers.Dense(2)(layers.GlobalMaxPooling1D()(x)))


@model
def depthwise_and_separable():
    x = i = _image()
    x = layers.Conv2D(8, 3)(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu6")(x)
    x = layers.BatchNormalization(center=False)(x)
    x = layers.SeparableConv2D(6, 3, depth_multiplier=2, activation="relu")(x)
    x = layers.PReLU(shared_axes=[1, 2])(x)
    return Model(i, _classify(x))


@model
def prelu_over_maps():
    x = i = _image()
    x = layers.PReLU()(layers.Conv2D(6, 3)(x))
    return Model(i, layers.Dense(2)(layers.Flatten()(x)))


@model
def residual_with_projection():
    x = i = _image()
    x = layers.Conv2D(8, 3, padding="same")(x)
    y = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", activation="relu")(x))
    x = layers.Add()([x, y])
    y = layers.Conv2D(10, 3, strides=2, padding="same")(x)
    x = layers.Add()([layers.Conv2D(10, 1, strides=2)(x), y])
    return Model(i, _classify(layers.ReLU()(x)))


@model
def residual_padded_with_zeros():
    x = i = _image()
    x = layers.Conv2D(6, 3, padding="same")(x)
    y = layers.Conv2D(10, 3, padding="same", activation="relu")(x)
    x = ops.pad(x, [[0, 0], [0, 0], [0, 0], [2, 2]])
    return Model(i, _classify(x + y))


@model
def merges():
    x = i = _image()
    a, b, c = (layers.Conv2D(6, 3)(x) for _ in range(3))
    x = layers.Maximum()([a, layers.Subtract()([b, c])])
    x = layers.Average()([x, layers.Multiply()([a, b])])
    return Model(i, _classify(layers.Minimum()([x, c])))


@model
def inception():
    x = i = _image()
    x = layers.Conv2D(6, 3)(x)
    a = layers.Conv2D(4, 1, activation="relu")(x)
    b = layers.Conv2D(6, 3, padding="same")(layers.Conv2D(4, 1)(x))
    c = layers.Conv2D(5, 1)(layers.MaxPooling2D(3, strides=1, padding="same")(x))
    x = layers.Concatenate()([a, x, b, c])
    x = layers.Concatenate()([layers.Conv2D(4, 3)(x), layers.AveragePooling2D(3, 1)(x)])
    return Model(i, layers.Dense(2)(layers.Dense(6)(layers.Flatten()(x))))


@model
def concatenation_along_time():
    i = Input((6, 3))
    a, b = layers.Conv1D(6, 1)(i), layers.Conv1D(6, 3)(i)
    x = layers.Concatenate(axis=1)([a, b])
    return Model(i, layers.Dense(2)(layers.LSTM(4)(x)))


@model
def squeeze_and_excitation():
    x = i = _image()
    x = layers.Conv2D(8, 3)(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(4, 1, activation="relu")(gate)
    gate = layers.Conv2D(8, 1, activation="sigmoid")(gate)
    x = layers.Multiply()([x, gate])
    gate = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
    return Model(i, _classify(x * layers.Conv2D(8, 1, activation="hard_sigmoid")(gate)))


@model
def spatial_gate():
    x = i = _image()
    x = layers.Conv2D(8, 3, padding="same")(x)
    gate = layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x)
    return Model(i, _classify(x * gate))


@model
def operations():
    x = i = _image()
    x = layers.Conv2D(8, 3)(x)
    x = ops.relu6(x + 3) * (1 / 6)
    a, b = x[..., :5], x[..., 5:]
    c, d = ops.split(layers.Conv2D(6, 1)(x), 2, axis=-1)
    x = ops.concatenate([ops.tanh(a), layers.Conv2D(3, 1)(b), c + d], axis=-1)
    x = ops.mean(x, axis=[1, 2])
    return Model(i, layers.Dense(2)(ops.maximum(x, 0.1)))


@model
def three_way_split():
    i = Input((12,))
    parts = ops.split(layers.Dense(12)(i), [3, 7], axis=-1)
    x = layers.Concatenate()([layers.Dense(4)(part) for part in parts])
    return Model(i, layers.Dense(2)(x))


@model
def reshapes():
    x = i = _image()
    x = layers.Conv2D(6, 3, strides=2)(x)
    x = layers.Reshape((25, 6))(x)
    x = layers.Permute((2, 1))(x)
    x = layers.Reshape((6, 5, 5))(x)
    x = layers.Permute((2, 3, 1))(x)
    x = layers.Reshape((5, -1))(layers.Conv2D(4, 1)(x))
    return Model(i, layers.Dense(2)(layers.Flatten()(layers.Dense(6)(x))))


@model
def reshape_that_spreads_channels():
    i = Input((9,))
    x = layers.Reshape((3, 4))(layers.Dense(12)(i))
    x = layers.Flatten()(ops.transpose(x, (0, 2, 1)))
    return Model(i, layers.Dense(2)(x))


@model
def shuffle_by_reshape():
    x = i = _image()
    x = layers.Conv2D(12, 1)(x)
    x = layers.Conv2D(12, 1, groups=2)(x)
    x = layers.Reshape((12, 12, 2, 6))(x)
    x = layers.Permute((1, 2, 4, 3))(x)
    x = layers.Reshape((12, 12, 12))(x)
    x = layers.Conv2D(8, 3, groups=2)(x)
    return Model(i, _classify(x))


@model
def shufflenet_units():
    x = i = _image()
    x = layers.Conv2D(12, 3)(x)
    for _ in range(2):
        y = layers.Conv2D(12, 1, groups=3, activation="relu")(x)
        y = ChannelShuffle(3)(y)
        y = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(y))
        x = layers.Add()([x, layers.Conv2D(12, 1, groups=3)(y)])
    y = ChannelShuffle(3)(layers.Conv2D(12, 1, groups=3)(x))
    y = layers.Conv2D(12, 1, groups=3)(layers.DepthwiseConv2D(3, strides=2, padding="same")(y))
    x = layers.Concatenate()([layers.AveragePooling2D(3, 2, padding="same")(x), y])
    x = layers.Conv2D(6, 1, groups=3)(x)
    return Model(i, _classify(x))


@model
def grouped_convolutions():
    x = i = _image()
    x = layers.Conv2D(12, 3)(x)
    x = layers.Conv2D(16, 3, groups=4, activation="relu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(8, 3, groups=2)(x)
    return Model(i, _classify(x))


@model
def depthwise_by_groups():
    x = i = _image()
    x = layers.Conv2D(6, 3)(x)
    x = layers.Conv2D(12, 3, groups=6)(x)
    return Model(i, _classify(x))


@model
def resnext_block():
    x = i = _image()
    x = layers.Conv2D(16, 3, padding="same")(x)
    y = layers.Conv2D(16, 1, activation="relu")(x)
    y = layers.Conv2D(16, 3, groups=4, padding="same")(y)
    y = layers.BatchNormalization()(y)
    return Model(i, _classify(layers.Add()([x, layers.Conv2D(16, 1)(y)])))


@model
def grouped_residual_stream():
    x = i = _image()
    x = layers.Conv2D(12, 1)(x)
    for groups in (3, 2):
        y = layers.Conv2D(12, 3, groups=groups, padding="same", activation="relu")(x)
        x = layers.Add()([x, y])
    return Model(i, _classify(x))


@model
def shared_layers():
    i, j = Input((8, 8, 4)), Input((8, 8, 4))
    shared, norm = layers.Conv2D(6, 3, name="shared"), layers.BatchNormalization()
    first, second = layers.Conv2D(5, 1), layers.Conv2D(5, 1)
    a, b = norm(shared(first(i))), norm(shared(second(j)))
    return Model([i, j], _classify(layers.Concatenate()([a, b])))


@model
def layer_called_on_its_own_output():
    x = i = _image()
    x = layers.Conv2D(6, 1)(x)
    again = layers.Conv2D(6, 3, padding="same", activation="relu")
    return Model(i, _classify(again(again(x))))


@model
def nested_models():
    encoder_input = Input((12, 12, 4))
    x = layers.Conv2D(8, 3, activation="relu")(encoder_input)
    encoder = Model(encoder_input, [layers.Conv2D(6, 3)(x), x], name="encoder")
    neck = keras.Sequential([Input((8, 8, 6)), layers.Conv2D(6, 1), layers.BatchNormalization()], name="neck")
    i = _image()
    deep, shallow = encoder(layers.Conv2D(4, 1)(i))
    x = neck(neck(deep))
    return Model(i, layers.Concatenate()([_classify(x), layers.GlobalMaxPooling2D()(shallow)]))


@model
def model_in_model_in_model():
    def wrap(inner, channels):
        i = Input((6, 6, channels))
        return Model(i, layers.Conv2D(channels, 1)(inner(i) if inner else i))

    x = i = Input((6, 6, 3))
    x = layers.Conv2D(6, 1)(x)
    return Model(i, _classify(wrap(wrap(wrap(None, 6), 6), 6)(x)))


class Siamese(keras.Model):
    """Functional inside, though its get_config is the constructor's."""

    def __init__(self, width: int):
        i = Input((12, 12, 3))
        x = layers.Conv2D(width, 3)(i)
        super().__init__(i, layers.Conv2D(width, 1)(x))
        self.width = width

    def get_config(self):
        return {"width": self.width}


@model
def functional_inside_a_subclass():
    i, j = _image(), _image()
    tower = Siamese(6)
    return Model([i, j], _classify(layers.Subtract()([tower(i), tower(j)])))


@model
def several_inputs_and_outputs():
    inputs = {"a": Input((6,), name="a"), "b": Input((4,), name="b")}
    a, b = layers.Dense(8)(inputs["a"]), layers.Dense(8)(inputs["b"])
    x = layers.Add()([a, b])
    return Model(inputs, {"sum": layers.Dense(2)(x), "product": layers.Dense(3)(layers.Multiply()([x, a]))})


@model
def time_distributed():
    i = Input((4, 8, 8, 3))
    x = layers.TimeDistributed(layers.Conv2D(6, 3, activation="relu"))(i)
    x = layers.TimeDistributed(layers.BatchNormalization())(x)
    frame = Input((6, 6, 6))
    per_frame = Model(frame, layers.GlobalAveragePooling2D()(layers.Conv2D(5, 3)(frame)), name="per_frame")
    x = layers.TimeDistributed(per_frame)(x)
    return Model(i, layers.Dense(2)(layers.LSTM(4)(x)))


@model
def embedding_and_attention():
    i = Input((7,), dtype="int32")
    x = layers.Embedding(5, 8)(i)
    y = layers.MultiHeadAttention(4, 3)(x, x)
    x = layers.Add()([x, y])
    x = layers.MultiHeadAttention(2, 3, value_dim=VALUE_DIM)(layers.Dense(6)(x), x, key=layers.Dense(4)(x))
    return Model(i, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


@model
def attention_over_maps():
    i = Input((4, 5, 4))
    x = layers.Dense(8)(i)
    y = layers.MultiHeadAttention(4, 2, attention_axes=(1, 2), use_bias=False)(x, x)
    return Model(i, layers.Dense(2)(layers.MultiHeadAttention(4, 2, attention_axes=(2,))(y, x)))


@model
def attention_scores():
    i = Input((5, 4))
    x = layers.Dense(8)(i)
    attention = layers.MultiHeadAttention(4, 2, output_shape=6, use_gate=True)
    y, scores = attention(x, x, return_attention_scores=True)
    scores = layers.Dense(3)(layers.Permute((2, 3, 1))(scores))
    return Model(i, [layers.Dense(2)(y), scores])


@model
def channels_first():
    i = Input((3, 12, 12))
    kwargs = {"data_format": "channels_first"}
    x = layers.ZeroPadding2D(1, **kwargs)(i)
    x = layers.Permute((2, 3, 1))(x)
    x = layers.Conv2D(6, 3)(x)
    x = layers.Permute((3, 1, 2))(x)
    x = layers.BatchNormalization(axis=1)(x)
    x = layers.PReLU(shared_axes=[2, 3])(x)
    x = layers.Concatenate(axis=1)([x, layers.UpSampling2D(1, **kwargs)(x)])
    x = layers.Flatten(**kwargs)(x)
    return Model(i, layers.Dense(2)(x))


@model
def channels_first_convolutions():
    """No map is as wide as it has channels: there Keras 3.15 on TensorFlow adds some biases wrongly."""
    kwargs = {"data_format": "channels_first"}
    i = Input((3, 15, 15))
    x = layers.Conv2D(8, 3, **kwargs)(i)
    x = layers.ReLU()(layers.BatchNormalization(axis=1)(x))
    x = layers.Conv2D(6, 3, padding="same", **kwargs)(layers.DepthwiseConv2D(3, **kwargs)(x))
    gate = layers.GlobalAveragePooling2D(keepdims=True, **kwargs)(x)
    x = layers.Multiply()([x, layers.Conv2D(6, 1, activation="sigmoid", **kwargs)(gate)])
    x = layers.Concatenate(axis=1)([x, layers.Conv2D(4, 3, padding="same", groups=2, **kwargs)(x)])
    x = layers.SeparableConv2D(7, 1, **kwargs)(layers.MaxPooling2D(**kwargs)(x))
    return Model(i, layers.Dense(3)(layers.GlobalMaxPooling2D(**kwargs)(x)))


@model
def instance_normalization():
    x = i = _image()
    x = layers.GroupNormalization(groups=-1)(layers.Conv2D(6, 3)(x))
    return Model(i, _classify(layers.GroupNormalization(groups=6)(layers.Conv2D(6, 3)(x))))


@model
def open_sizes():
    i = Input((None, None, 3))
    x = layers.Conv2D(6, 3, activation="relu")(i)
    x = layers.Concatenate()([x, layers.Conv2D(4, 1)(x)])
    x = layers.Reshape((-1, 10))(x)
    return Model(i, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


@model
def tokens_of_open_sizes():
    i = Input((None, None, 3))
    x = layers.Reshape((-1, 8))(layers.Conv2D(8, 3)(i))
    x = layers.Add()([x, layers.Dense(8)(x)])
    x = layers.Add()([x, layers.MultiHeadAttention(4, 2)(x, x)])
    return Model(i, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


@model
def activations_that_are_layers():
    x = i = _image()
    x = layers.Conv2D(6, 3, activation=layers.LeakyReLU())(x)
    x = layers.DepthwiseConv2D(3, activation=layers.ELU())(x)
    return Model(i, _classify(layers.Activation(layers.ReLU(max_value=6))(x)))
