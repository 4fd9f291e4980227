"""Between confluent-kafka's messages and our records; for everything that reads Kafka without an engine, and for it."""

from __future__ import annotations

from operator import methodcaller
from typing import Final

from confluent_kafka import Message, Producer

from sluicegate.streams.engine import Headers, Out, Record

UNREADABLE_HEADERS: Final[Headers] = (("unreadable-headers", b""),)
"""Stands for headers of which a name is not UTF-8: any writer can produce them, and no reader may fall over them."""
_QUEUE_FULL_WAIT_SEC: Final = 0.1
_headers: Final = methodcaller("headers")
"""For a header name that is not UTF-8 confluent-kafka returns a broken tuple *and* sets an exception. After a direct
call the interpreter may walk into the tuple, which ends the process; called like this it raises SystemError."""


def record_of(name: str, message: Message) -> Record:
    """The record a message holds; ``name`` is its topic's logical name. Never raises for what a writer chose."""
    try:
        headers = _headers(message)
    except SystemError:
        found = UNREADABLE_HEADERS
    else:
        found = tuple((key, value or b"") for key, value in headers) if headers else ()
    return Record(
        name,
        message.partition() or 0,
        message.offset() or 0,
        message.key() or b"",
        message.value() or b"",
        found,
        message.timestamp()[1],
    )


def produce_out(producer: Producer, topic: str, out: Out) -> None:
    """Hands an output to a producer under a physical topic name; waits while its queue is full."""
    while True:
        try:
            producer.produce(topic, out.value, out.key, headers=list(out.headers))
            return
        except BufferError:
            producer.poll(_QUEUE_FULL_WAIT_SEC)
