"""A layer whose weights take few different values.

>>> import keras, numpy as np
>>> layer = SharedLayer(keras.layers.Dense(2, use_bias=False), bits=2)
>>> x = np.ones((1, 3), "float32")
>>> _ = layer(x)
>>> layer.shared[0].codebook.assign([-1.0, 0.5, 2.0]).shape
TensorShape([3])
>>> layer.shared[0].codes.assign([[0, 1], [2, 0], [3, 1]]).shape  # 0: zero, 1: the first value, ...
TensorShape([3, 2])
>>> keras.ops.convert_to_numpy(layer(x))
array([[ 2.5, -2. ]], dtype=float32)
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress import _kernels
from tfcompress._arrays import to_numpy
from tfcompress._checks import check_whole
from tfcompress.layers.substituted import SubstitutedLayer

MAX_BITS = 12


@dataclass(frozen=True)
class SharedWeight:
    """A kernel, the values that its entries share, and which entry has which.

    Attributes:
        weight: the kernel, which rests.
        codebook: `(2^bits - 1,)` values, which are trained.
        codes: of the kernel's shape: 0 for zero, n for the n-th value.
    """

    weight: keras.Variable
    codebook: keras.Variable
    codes: keras.Variable

    @property
    def path(self) -> str:
        return self.weight.path

    @property
    def value(self) -> np.ndarray:
        """The kernel that the layer computes with."""
        return np.concatenate([[0], to_numpy(self.codebook)]).astype("float32")[to_numpy(self.codes)]

    def assign(self, codebook: np.ndarray, codes: np.ndarray) -> None:
        """Sets the values, of which there may be fewer, and who has which."""
        missing = self.codebook.shape[0] - len(codebook)
        self.codebook.assign(np.pad(codebook, (0, missing)))
        self.codes.assign(codes)


@keras.saving.register_keras_serializable(package="tfcompress")
class SharedLayer(SubstitutedLayer):
    """Calls a layer with kernels that are looked up in a table, `w = codebook[codes]`.

    Training moves the values, not the choice: `dL/dc_k = sum of dL/dw over the entries that have c_k` (Han,
    Mao and Dally 2016, "Deep Compression", eq. 3). That is a sum, as large as a table is short: a rate of
    training that suits weights is too large for SGD; Adam does not mind. What is zero stays zero. The
    layer's own kernel rests meanwhile, and with it its regularizer and constraint.

    Usually `tfcompress.share(model, bits)` makes the wrappers of a whole model and fills their tables, and
    `tfcompress.strip(model)` takes them off again.

    Args:
        layer: a layer with kernels. What becomes of it: the wrapper alone may call it from now on.
        bits: of a code, from 1 to 12. There are `2^bits - 1` values beside zero.
        place: the number of the layer in its model, which `share` sets; see `SubstitutedLayer`.

    Raises:
        ValueError: `layer` is no layer, or shares values already, `bits` is out of range; or when the layer
            is built: it has no kernels.
    """

    noun, state = "shared values", "shared"

    def __init__(self, layer: keras.layers.Layer, bits: int = 5, place: int | None = None, **kwargs: Any):
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(f"Expected a keras layer, got {layer!r}.")
        if isinstance(layer, SubstitutedLayer):
            raise ValueError(f"'{layer.name}' is {layer.state} already: strip(model) first.")
        check_bits(bits)
        super().__init__(layer, place, **kwargs)
        self.bits = int(bits)
        self.shared: list[SharedWeight] = []

    def prepare(self) -> None:
        pairs = _kernels.kernels(self.layer)
        if not pairs:
            raise ValueError(
                f"'{self.layer.name}' ({type(self.layer).__name__}) has no kernel whose values could be "
                "shared. Leave it as it is."
            )
        self.shared = [self._table(weight) for weight, _ in pairs]

    def _table(self, weight: keras.Variable) -> SharedWeight:
        size = 2**self.bits - 1
        codebook = self.add_weight(shape=(size,), initializer="zeros", name=f"{weight.name}_codebook")
        codes = self.add_weight(
            shape=weight.shape,
            dtype="uint8" if self.bits <= 8 else "uint16",
            initializer="zeros",
            trainable=False,
            name=f"{weight.name}_codes",
        )
        weight.trainable = False
        return SharedWeight(weight, codebook, codes)

    def values(self) -> list[tuple[keras.Variable, Any]]:
        return [(shared.weight, _looked_up(shared)) for shared in self.shared]

    @property
    def held(self) -> list[keras.Variable]:
        return [variable for shared in self.shared for variable in (shared.codebook, shared.codes)]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bits": self.bits}


def _looked_up(shared: SharedWeight) -> Any:
    # Joined with zero, the table's derivative is a whole array, not a list of single entries.
    values = keras.ops.convert_to_tensor(shared.codebook.value)
    table = keras.ops.concatenate([keras.ops.zeros((1,), values.dtype), values])
    return keras.ops.take(table, keras.ops.cast(shared.codes.value, "int32"))


def check_bits(bits: Any) -> None:
    """Raises `ValueError` unless codes can have so many bits."""
    check_whole("bits", bits, 1, MAX_BITS)
