"""The names of keys: which erasure unit an envelope belongs to, and which key in it opens the envelope.

``<tenant>/<agent>/<yyyy-mm>/<job>`` opens what belongs to a job: payload, context, output, result. Its job part is 10
hex digits of the SHA-256 of the job's id, so that a name tells no id. A quarantined output has a key of its own,
``<tenant>/<agent>/<yyyy-mm>/quarantine/<job>/<request>`` (32 hex digits of the SHA-256 of the request's id): it is
beyond those who may read the job, and it goes with the job. Unit: tenant, agent, month (UTC). Pure.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from functools import lru_cache
from typing import Final

import msgspec

from sluicegate.schemas.errors import SealingError
from sluicegate.schemas.key_tree import LEVELS

KEY_ID_CHARS_MAX: Final = 1_000
JOB: Final = "job"
QUARANTINE: Final = "quarantine"
CLASSES: Final = (JOB, QUARANTINE)
"""Each unit has a tree of its own for either class: nobody gets from one to the other."""
MONTHS: Final = re.compile(r"[0-9]{4}-(?:0[1-9]|1[0-2])")
_REQUEST_DIGITS: Final = 32
_FORM: Final = re.compile(
    rf"(?P<tenant>[^/]+)/(?P<agent>[^/]+)/(?P<month>{MONTHS.pattern})/"
    rf"(?:(?P<job>[0-9a-f]{{{LEVELS}}})|"
    rf"{QUARANTINE}/(?P<held>[0-9a-f]{{{LEVELS}}})/(?P<request>[0-9a-f]{{{_REQUEST_DIGITS}}}))"
)
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class KeyId(msgspec.Struct, frozen=True):
    """A key's name in parts. ``job`` and ``request`` are digits; ``request`` is empty but for a quarantined output."""

    tenant: str
    agent_id: str
    month: str
    job: str
    request: str = ""

    @property
    def key_class(self) -> str:
        """`job` or `quarantine`."""
        return QUARANTINE if self.request else JOB

    @property
    def text(self) -> str:
        """The name as it stands in envelopes."""
        unit = f"{_escaped(self.tenant)}/{_escaped(self.agent_id)}/{self.month}"
        return f"{unit}/{QUARANTINE}/{self.job}/{self.request}" if self.request else f"{unit}/{self.job}"


def month_of(at_ms: int) -> str:
    """The month of a time in ms since the epoch, in UTC, as ``yyyy-mm``. Raises SealingError."""
    try:
        return f"{_EPOCH + datetime.timedelta(milliseconds=at_ms):%Y-%m}"
    except OverflowError:
        raise SealingError(f"`{at_ms}` is no time in ms since the epoch; look at the clock") from None


def checked_month(text: str) -> str:
    """A month as it was given. Raises SealingError unless it is ``yyyy-mm``."""
    if not MONTHS.fullmatch(text):
        raise SealingError(f"`{text[:40]}` is no month; write `yyyy-mm`, such as `2026-11`")
    return text


def job_digits(job_id: str) -> str:
    """The leaf of a job in every unit."""
    return _digest(job_id)[:LEVELS]


def request_digits(request_id: str) -> str:
    """What names a request in the key of its quarantined output."""
    return _digest(request_id)[:_REQUEST_DIGITS]


def job_key(tenant: str, agent_id: str, at_ms: int, job_id: str) -> KeyId:
    """The key of all that belongs to a job submitted at this time."""
    return KeyId(tenant, agent_id, month_of(at_ms), job_digits(job_id))


def quarantine_key(job: KeyId, request_id: str) -> KeyId:
    """The key of a job's raw output while a request holds it."""
    return KeyId(job.tenant, job.agent_id, job.month, job.job, request_digits(request_id))


@lru_cache(maxsize=4_096)
def parse_key_id(text: str) -> KeyId:
    """The parts of a name. Raises SealingError for what no key is called: a name is written in one way only."""
    found = _FORM.fullmatch(text) if len(text) <= KEY_ID_CHARS_MAX else None
    if found is not None:
        job, request = found["job"] or found["held"], found["request"] or ""
        key_id = KeyId(_unescaped(found["tenant"]), _unescaped(found["agent"]), found["month"], job, request)
        if key_id.text == text:
            return key_id
    raise SealingError(f"`{text[:80]}` is no key's name; write `tenant/agent/yyyy-mm/{'0' * LEVELS}`")


def key_fault(text: str, tenant: str, agent_id: str, job_id: str) -> str | None:
    """Why an envelope's key is not that of this agent's job, or None: whoever submits says which key it took."""
    try:
        key_id = parse_key_id(text)
    except SealingError as error:
        return str(error)
    if (key_id.tenant, key_id.agent_id, key_id.job) != (tenant, agent_id, job_digits(job_id)) or key_id.request:
        return f"sealed under key `{text}`, which is not that of job `{job_id}` of `{agent_id}`; seal it anew"
    return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _escaped(part: str) -> str:
    return part.replace("%", "%25").replace("/", "%2F")


def _unescaped(part: str) -> str:
    return part.replace("%2F", "/").replace("%25", "%")
