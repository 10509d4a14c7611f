"""The table of stock Keras: what each layer and each `keras.ops` function does with channels."""

from keras import layers

from tfcompress.channels import special
from tfcompress.channels.specs import ChannelSpec, Rule, register

BIAS = {"bias": ("out",)}
CONVOLUTION = ChannelSpec("mix", width="filters", axes={"kernel": ("reads in", "out"), **BIAS})
TRANSPOSE = ChannelSpec("mix", width="filters", axes={"kernel": ("out", "reads in"), **BIAS})
SEPARABLE = ChannelSpec(
    "mix",
    width="filters",
    axes={"depthwise_kernel": ("in", "-"), "pointwise_kernel": ("reads mid", "out"), **BIAS},
)
DENSE = ChannelSpec("mix", width="units", axes={"kernel": ("reads in", "out"), **BIAS})
SCALE = {"gamma": ("in",), "beta": ("in",)}
BATCH_NORM = ChannelSpec("each", axes={**SCALE, "moving_mean": ("in",), "moving_variance": ("in",)})
SPANNING_NORM = ChannelSpec("each", axes={**SCALE, "scale": ("in",)}, spans=True)
LAYER_SCALE = ChannelSpec("each", width="projection_dim", axes={"*": ("in",)}, spans=True)
POINTWISE = ChannelSpec("each", pointwise=True)
PRELU = ChannelSpec("each", pointwise=True, axes={"alpha": ("in",)})
PER_CHANNEL = ChannelSpec("each")
MERGE = ChannelSpec("merge")
MOVE = ChannelSpec("move")

TABLE: list[tuple[ChannelSpec | Rule, str]] = [
    (CONVOLUTION, "Conv1D Conv2D Conv3D"),
    (TRANSPOSE, "Conv1DTranspose Conv2DTranspose Conv3DTranspose"),
    (SEPARABLE, "SeparableConv1D SeparableConv2D"),
    (special.depthwise, "DepthwiseConv1D DepthwiseConv2D"),
    (DENSE, "Dense"),
    (special.embedding, "Embedding"),
    (special.recurrent, "LSTM GRU SimpleRNN"),
    (special.bidirectional, "Bidirectional"),
    (special.time_distributed, "TimeDistributed"),
    (special.attention, "MultiHeadAttention"),
    (BATCH_NORM, "BatchNormalization"),
    (SPANNING_NORM, "LayerNormalization RMSNormalization UnitNormalization"),
    (special.normalization_by_group, "GroupNormalization"),
    (special.rescaling, "Rescaling"),
    (special.across_channels, "Softmax Normalization"),
    (PRELU, "PReLU"),
    (
        POINTWISE,
        "Activation ReLU LeakyReLU ELU Identity Dropout AlphaDropout GaussianDropout GaussianNoise"
        " SpatialDropout1D SpatialDropout2D SpatialDropout3D ActivityRegularization",
    ),
    (
        PER_CHANNEL,
        "MaxPooling1D MaxPooling2D MaxPooling3D AveragePooling1D AveragePooling2D AveragePooling3D"
        " GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D"
        " GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D"
        " ZeroPadding1D ZeroPadding2D ZeroPadding3D Cropping1D Cropping2D Cropping3D"
        " UpSampling1D UpSampling2D UpSampling3D Resizing CenterCrop"
        " RandomCrop RandomFlip RandomRotation RandomTranslation RandomZoom",
    ),
    (MERGE, "Add Subtract Multiply Average Maximum Minimum"),
    (MOVE, "Concatenate Flatten Permute RepeatVector"),
    (ChannelSpec("move", rewrite="shape"), "Reshape"),
]

OPS_TABLE: list[tuple[ChannelSpec | Rule, str]] = [
    (
        POINTWISE,
        "absolute celu clip cos elu erf exp expm1 gelu hard_shrink hard_sigmoid hard_silu hard_tanh"
        " leaky_relu log log1p log_sigmoid negative reciprocal relu relu6 round rsqrt selu sigmoid sign"
        " silu sin soft_shrink softplus softsign sparse_plus sparse_sigmoid sqrt square squareplus tanh"
        " tanh_shrink threshold cast stop_gradient logical_not",
    ),
    (
        MERGE,
        "add subtract multiply divide true_divide maximum minimum power equal not_equal greater"
        " greater_equal less less_equal logical_and logical_or logical_xor",
    ),
    (special.reduction, "mean max min sum any all"),
    (special.constant_like, "zeros_like ones_like"),
    (special.padding, "pad"),
    (MOVE, "concatenate transpose squeeze expand_dims stack swapaxes moveaxis"),
    (ChannelSpec("move", rewrite="shape"), "reshape"),
    (ChannelSpec("move", rewrite="split"), "split"),
    (ChannelSpec("move", rewrite="item"), "get_item"),
]

for _spec, _names in TABLE:
    for _name in _names.split():
        register(getattr(layers, _name), _spec)
for _spec, _names in OPS_TABLE:
    for _name in _names.split():
        register(f"ops.{_name}", _spec)
register("tfcompress>ChannelShuffle", ChannelSpec("move", rewrite="permutation"))
register("applications.LayerScale", LAYER_SCALE)
register("applications.CustomScaleLayer", MERGE)  # x + scale * y
