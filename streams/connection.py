"""The first contact with a broker: proves that it answers and that the login is accepted, before anything waits on it.

librdkafka retries a refused password for ever and reports it only on a callback that blocking calls do not
serve, so every process begins here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from sluicegate.schemas.errors import LoginRefused, Unavailable

LOGGER: Final = logging.getLogger("sluicegate.kafka")
LOGGER.addHandler(logging.NullHandler())  # librdkafka's own lines are for whoever turns this logger on

BROKER_WAIT_SEC_MAX: Final = 30.0
_TRY_SEC: Final = 0.5
LOGIN_ERRORS: Final = frozenset((KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED))


def await_broker(connection: Mapping[str, str], wait_sec: float = BROKER_WAIT_SEC_MAX) -> None:
    """Returns once the broker has answered this login.

    Raises LoginRefused at once when the broker refuses it, Unavailable when nothing answers for ``wait_sec``.
    """
    seen: list[KafkaError] = []
    client = AdminClient({**connection, "error_cb": seen.append}, logger=LOGGER)
    deadline = time.monotonic() + wait_sec
    while True:
        try:
            client.list_topics(timeout=_TRY_SEC)
            return
        except KafkaException as exc:
            last = exc.args[0].str()
        client.poll(0)
        for error in seen:
            if error.code() in LOGIN_ERRORS:
                raise LoginRefused(login_message(connection))
        if time.monotonic() > deadline:
            raise Unavailable(f"no broker answers at `{connection.get('bootstrap.servers')}` ({last}); is it running?")


def login_message(connection: Mapping[str, str]) -> str:
    """The text of a LoginRefused for this connection; never the password."""
    return f"the broker refused the login `{connection.get('sasl.username', '')}`; check its password in the run folder"


class LossLog:
    """Takes librdkafka's log lines of one client, passes them on, and notices when a connection was lost.

    After a loss a request may have been sent twice, the first one still on its way: librdkafka tries again by itself,
    reports nothing to its ``error_cb``, and only says so here. Lines arrive when the client is polled. Of equal losses
    within half a minute only the first is told, so a loss counts for good and not only for the call it fell into;
    a connection that the broker closed because it was idle is no loss.
    """

    def __init__(self, passed_to: logging.Logger) -> None:
        self._passed_to = passed_to
        self.lost = False

    def log(self, level: int, form: str, facility: str, client: str, text: str) -> None:
        """What librdkafka calls; `FAIL` is its word for the end of a connection."""
        self.lost = self.lost or (facility == "FAIL" and level >= logging.INFO)
        self._passed_to.log(level, form, facility, client, text)
