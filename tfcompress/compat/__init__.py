"""The interfaces of other tools, on Keras 3."""
