"""What a webhook says of an alert, and the id under which it says it."""

import hashlib
from dataclasses import dataclass
from typing import Final

import orjson

from meterproof_schemas.budget import Alert, alert_key, encode
from meterproof_schemas.instant import format_instant_ms

MESSAGE_TYPE: Final = "budget.alert"
"""`type` of the body: groups messages for receivers."""


@dataclass(frozen=True, slots=True)
class WebhookMessage:
    """One alert as it is sent: the same bytes under the same id, to every endpoint, each time."""

    id: str
    """`webhook-id`: a receiver that has seen it drops the message."""
    alert: str
    """The alert's key on `usage.alerts`."""
    body: bytes


def message_of(alert: Alert) -> WebhookMessage:
    """The message that tells an alert.

    The body is `{"type", "timestamp", "data"}`, as Standard Webhooks has it: the time is the broker's append time of
    the event that reached the threshold, the data is the alert as it stands on its topic.
    """
    # The parts of a model's own JSON need no second encoder.
    head = b'{"type":"%s","timestamp":"%s","data":' % (
        MESSAGE_TYPE.encode(),
        format_instant_ms(alert.append_ms).encode(),
    )
    return WebhookMessage(message_id(alert), alert_key(alert).decode(), head + encode(alert) + b"}")


def message_id(alert: Alert) -> str:
    """`alert_` and 128 bits that follow from what the alert states, so that whoever tells it uses the same id.

    An alert raised again is the same one; that of a limit that was changed meanwhile, or of another deployment whose
    budgets have equal names, is another one. What the total was when the threshold was found to be reached, and by
    which log, says nothing of which alert it is.
    """
    deployment = alert.log.rpartition("/")[0]  # the origin without its partition: name and epoch
    stated = [deployment, alert_key(alert).decode(), alert.limit, alert.currency, alert.meters]
    return f"alert_{hashlib.sha256(orjson.dumps(stated)).hexdigest()[:32]}"
