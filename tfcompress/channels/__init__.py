"""Channels: which live and die together (`trace`), and a model without some of them (`shrink`)."""

from tfcompress.channels import table as _table  # noqa: F401  (fills the registry)
from tfcompress.channels.fold import fold_constants
from tfcompress.channels.graph import Balance, ChannelGraph, Group, trace
from tfcompress.channels.shrink import remaining, shrink
from tfcompress.channels.silence import reading_masks, silence, silenced
from tfcompress.channels.specs import ChannelSpec, register

__all__ = [
    "Balance",
    "ChannelGraph",
    "ChannelSpec",
    "Group",
    "fold_constants",
    "reading_masks",
    "register",
    "remaining",
    "shrink",
    "silence",
    "silenced",
    "trace",
]
