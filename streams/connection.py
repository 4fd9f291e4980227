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
BROKEN_CONNECTION: Final = frozenset(
    (KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE)
)
"""Reports after which a request may have been sent twice."""
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
