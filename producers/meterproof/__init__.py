"""Signed usage events from a service to Kafka."""

from meterproof._document import UsageFields
from meterproof._meter import Meter
from meterproof._sync_meter import SyncMeter
from meterproof._transport import Transport
from meterproof.errors import (
    BufferFull,
    DeliveryFailed,
    InvalidKey,
    InvalidSettings,
    MeterClosed,
    MeterError,
    WrongPartitionCount,
)
from meterproof.keys import ProducerKey
from meterproof.settings import MeterSettings

__all__ = [
    "BufferFull",
    "DeliveryFailed",
    "InvalidKey",
    "InvalidSettings",
    "Meter",
    "MeterClosed",
    "MeterError",
    "MeterSettings",
    "ProducerKey",
    "SyncMeter",
    "Transport",
    "UsageFields",
    "WrongPartitionCount",
]
