"""Who is told: one sentence by mail, or to a web address, as the environment says.

WATCHFUNNEL_WEBHOOK_URL receives `{"text": ...}` by POST, as Slack, Mattermost and Teams read it.
WATCHFUNNEL_MAIL_TO receives mail through WATCHFUNNEL_SMTP_HOST (`localhost` unless said, with
`:port`), from WATCHFUNNEL_MAIL_FROM. With neither, nobody is told.
"""

import json
import os
import smtplib
from collections.abc import Mapping
from email.message import EmailMessage
from urllib.error import URLError
from urllib.request import Request, urlopen

TIMEOUT_SECONDS = 10


def notify(subject: str, text: str, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Tell whom the environment names, and return whom; a channel that fails is printed, for the
    pipeline must not fail of it.
    """
    told = []
    for name, send in (("WATCHFUNNEL_WEBHOOK_URL", _post), ("WATCHFUNNEL_MAIL_TO", _mail)):
        receiver = environment.get(name)
        if not receiver:
            continue
        try:
            send(receiver, subject, text, environment)
        except (URLError, OSError, ValueError, smtplib.SMTPException) as error:
            print(f"Nobody was told by {name}: {type(error).__name__}: {error}")
        else:
            told.append(name)
    return told


def _post(url: str, subject: str, text: str, _: Mapping[str, str]) -> None:
    if not url.startswith(("http://", "https://")):
        raise ValueError("the address of a webhook begins with http:// or https://")
    body = json.dumps({"text": f"{subject}\n{text}"}).encode()
    request = Request(url, body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=TIMEOUT_SECONDS):
        pass


def _mail(receiver: str, subject: str, text: str, environment: Mapping[str, str]) -> None:
    message = EmailMessage()
    message["From"] = environment.get("WATCHFUNNEL_MAIL_FROM", "watchfunnel@localhost")
    message["To"], message["Subject"] = receiver, subject
    message.set_content(text)
    host, _, port = (environment.get("WATCHFUNNEL_SMTP_HOST") or "localhost").partition(":")
    with smtplib.SMTP(host, int(port or 25), timeout=TIMEOUT_SECONDS) as server:
        server.send_message(message)
