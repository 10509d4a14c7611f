"""tfmot's callbacks."""

from typing import Any

import keras

from tfcompress import layers
from tfcompress.callbacks import UpdateMasks


class UpdatePruningStep(UpdateMasks):
    """Updates the masks while `model.fit` trains, as `callbacks.UpdateMasks` does."""

    def __init__(self) -> None:
        super().__init__()

    def on_epoch_end(self, batch: Any = None, logs: Any = None) -> None:
        """tfmot calls the number of the epoch `batch`, and loops of one's own pass it by that name."""
        super().on_epoch_end(batch, logs)


class PruningSummaries(keras.callbacks.TensorBoard):
    """TensorBoard with the sparsity of every masked weight, as `<path of the weight>/sparsity`.

    Args:
        log_dir: where to write.
        update_freq: as TensorBoard's; sparsities are written at the end of an epoch.
        **kwargs: for TensorBoard.

    Raises:
        ValueError: `log_dir` is not a string, or is empty.
    """

    def __init__(self, log_dir: str, update_freq: Any = "epoch", **kwargs: Any):
        if not isinstance(log_dir, str) or not log_dir:
            raise ValueError(f"`log_dir` must be a non-empty string, got {log_dir!r}.")
        super().__init__(log_dir=log_dir, update_freq=update_freq, **kwargs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        sparsities = {
            f"{masked.path}/sparsity": float((~masked.kept).mean())
            for masked in layers.masked_weights(self.model)
        }
        super().on_epoch_end(epoch, {**(logs or {}), **sparsities})
