"""How old a log is: a feed that died makes no run fail, so somebody has to say it."""

import json
import os
from datetime import UTC, datetime, timedelta

from features.errors import InputError
from funnel.store import Store

STALE_HOURS = "WATCHFUNNEL_STALE_HOURS"


def stale_log(store: Store, now: datetime) -> str | None:
    """A sentence where the newest row of the log in force is older than WATCHFUNNEL_STALE_HOURS;
    None where it is not, or where nobody asked.
    """
    asked = os.environ.get(STALE_HOURS)
    if not asked:
        return None
    try:
        most = timedelta(hours=float(asked))
    except ValueError:
        raise InputError(
            f"{STALE_HOURS} = {asked} is no number; it is the age in hours from which the newest "
            "row of the log is too old, e.g. 36."
        ) from None
    summary = json.loads((store.path("interactions") / "summary.json").read_text())
    newest = datetime.fromisoformat(summary["last_timestamp"]).astimezone(UTC)
    if now - newest <= most:
        return None
    hours = (now - newest).total_seconds() / 3600
    return (
        f"The newest row of the log is {hours:,.0f} hours old ({newest:%Y-%m-%d %H:%M} UTC), more "
        f"than {asked} hours: see whether its feed still runs."
    )
