"""verify_standardwebhooks.py CASE.json: signed webhooks, with `standardwebhooks`.

The case: {secret, messages: [{headers, body}]}, the body in base64. Exit 0: all hold; 1: one is refused.
"""

import base64
import json
import sys
from pathlib import Path

from standardwebhooks import Webhook, WebhookVerificationError  # type: ignore[import-not-found]  # in its own venv

given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
webhook = Webhook(given["secret"])
try:
    for message in given["messages"]:
        webhook.verify(base64.b64decode(message["body"]), message["headers"])
except WebhookVerificationError as error:
    sys.exit(f"{type(error).__name__}: {error}")
