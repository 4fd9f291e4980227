"""Where a client's keys come from: the key store's file on this machine, the key service, or nowhere."""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from sluicegate.schemas.errors import KeyErased, SealingError, SluicegateError, Unavailable
from sluicegate.schemas.payload import NONE
from sluicegate.schemas.sealing import Keyring, LeafKeyring, NoKeyring
from sluicegate.streams.identity import Signer
from sluicegate.streams.key_request import (
    ENDPOINT_FILE,
    PATH,
    KeyQuestion,
    KeyRefused,
    asked_by,
    decoded_key,
    new_nonce,
)
from sluicegate.streams.key_store import KeyStore, StoreKeyring

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

__all__ = ["KeyStore", "Keyring", "NoKeyring", "ServiceKeyring", "StoreKeyring", "endpoint_of", "keyring_of"]

ANSWER_SEC_MAX: Final = 15.0
POOL_ANSWER_SEC_MAX: Final = 2.0
"""How long a worker waits for a key: while it does, nothing else of it goes on, not even signs of life."""
PATIENCE_SEC: Final = 10.0
"""How long an agent waits for a key service that is being started again."""
AGAIN_SEC: Final = 0.5
"""How long one that did not answer is not asked again."""
LEAVES_MAX: Final = 1_000
"""Keys that one keyring keeps in memory."""
KEPT_SEC_MAX: Final = 60.0
"""How long it keeps one: so long what was erased may still be opened by who had its key."""
ANSWER_BYTES_MAX: Final = 65_536
PASSING: Final = ("unavailable", "too_many", "stale")
"""Answers that say nothing of the key: the same question may be answered later."""
_LOGGER: Final = logging.getLogger("sluicegate.keys")
_START: Final = "start `sluicegate up`, or `sluicegate run keys`"


def keyring_of(
    settings: Settings,
    signer: Signer | Callable[[], Signer],
    *,
    creates: bool = False,
    request_id: str | None = None,
    patience_sec: float = 0.0,
    answer_sec_max: float = ANSWER_SEC_MAX,
) -> Keyring:
    """What one principal opens and seals with, as the settings say: the key service, or nothing is encrypted.

    A ``signer`` that is a function is only called for, and its key file only wanted, where something is sealed.
    The rest is as `ServiceKeyring` has it.
    """
    if settings.sealing == NONE:
        return NoKeyring()
    run_dir, who = Path(settings.run_dir), signer() if callable(signer) else signer
    return ServiceKeyring(
        lambda: endpoint_of(run_dir),
        who,
        settings.tenant,
        creates=creates,
        request_id=request_id,
        patience_sec=patience_sec,
        answer_sec_max=answer_sec_max,
    )


def endpoint_of(run_dir: Path) -> str:
    """The key service's address, from the run folder. Raises Unavailable when none runs, or it is elsewhere."""
    try:
        found = (run_dir / ENDPOINT_FILE).read_text("utf-8").strip()
    except OSError:
        raise Unavailable(
            f"no `{ENDPOINT_FILE}` in `{run_dir}`: the key service is not running here; {_START}"
        ) from None
    return found


class ServiceKeyring(LeafKeyring):
    """Keys from the key service, asked for in one principal's name. Safe to share between threads.

    Raises KeyRefused for what the service does not give, KeyErased, Unavailable when it does not answer.
    """

    def __init__(
        self,
        endpoint: Callable[[], str],
        signer: Signer,
        tenant: str,
        *,
        creates: bool = False,
        request_id: str | None = None,
        patience_sec: float = 0.0,
        answer_sec_max: float = ANSWER_SEC_MAX,
    ) -> None:
        """Ask at ``endpoint``, called each time since a restarted service has another port.

        With ``creates`` (agents) sealing makes the unit of a new month; people name the request they look at.
        A service that does not answer is asked again for ``patience_sec``. Without patience one that did not answer
        just now counts as not answering, so that who asks for many keys is not kept for long.
        """
        self._endpoint, self._signer, self._tenant = endpoint, signer, tenant
        self._creates, self._request_id = creates, request_id
        self._patience_sec, self._answer_sec_max = patience_sec, answer_sec_max
        self._silent: tuple[float, str] = (0.0, "")
        self._lock = threading.Lock()
        self._leaves: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        # Loopback never goes through a proxy.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def for_request(self, request_id: str) -> Self:
        """The same person's keyring for what one request carries; it keeps keys of its own."""
        return type(self)(self._endpoint, self._signer, self._tenant, request_id=request_id)

    def leaf(self, key_id: str) -> bytes:
        """As `Keyring.leaf`."""
        return self._found(key_id, create=False)

    def leaf_to_seal(self, key_id: str) -> bytes:
        """As `leaf`, perhaps of a new unit."""
        return self._found(key_id, create=self._creates)

    def _found(self, key_id: str, *, create: bool) -> bytes:
        now = time.monotonic()
        with self._lock:
            while self._leaves and next(iter(self._leaves.values()))[0] <= now:
                self._leaves.popitem(last=False)
            kept = self._leaves.get(key_id)
        if kept is not None and kept[0] > now:
            return kept[1]
        found = self._patiently(key_id, create=create)
        with self._lock:
            self._leaves.pop(key_id, None)  # so that the oldest stands first
            self._leaves[key_id] = now + KEPT_SEC_MAX, found
            if len(self._leaves) > LEAVES_MAX:
                self._leaves.popitem(last=False)
        return found

    def _patiently(self, key_id: str, *, create: bool) -> bytes:
        until, said = self._silent
        if not self._patience_sec and time.monotonic() < until:
            raise Unavailable(said)
        deadline = time.monotonic() + self._patience_sec
        while True:
            try:
                return self._ask(key_id, create=create)
            except Unavailable as error:
                now = time.monotonic()
                self._silent = now + AGAIN_SEC, str(error)
                _LOGGER.warning("key %s cannot be had now: %s", key_id, error)
                if now >= deadline:
                    raise
            time.sleep(min(AGAIN_SEC, max(0.0, deadline - time.monotonic())))

    def _ask(self, key_id: str, *, create: bool) -> bytes:
        endpoint = self._endpoint()  # first: a service that began after the question was made does not answer it
        if not endpoint.startswith("http://127.0.0.1:"):
            raise Unavailable(f"`{endpoint[:80]}` is no address on this host; {_START}")
        question = KeyQuestion(
            tenant=self._tenant,
            key_id=key_id,
            create=create,
            request_id=self._request_id,
            issued_at_ms=time.time_ns() // 1_000_000,
            nonce=new_nonce(),
        )
        request = urllib.request.Request(  # noqa: S310  # scheme and host were checked above
            endpoint + PATH,
            data=asked_by(self._signer, question),
            headers={"Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=self._answer_sec_max) as answer:
                return decoded_key(str(_object(answer.read(ANSWER_BYTES_MAX))["key"]))
        except urllib.error.HTTPError as error:
            raise _error(error) from None
        except (OSError, ValueError, KeyError) as error:
            raise Unavailable(f"the key service does not answer at `{endpoint}` ({error}); {_START}") from None


def _object(content: bytes) -> dict[str, Any]:
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("no JSON object")  # noqa: TRY004  # the caller says it for every form of a bad answer
    return found


def _error(error: urllib.error.HTTPError) -> SluicegateError:
    try:
        found = _object(error.read(ANSWER_BYTES_MAX))
        code, text = str(found["code"]), str(found["error"])
    except (OSError, ValueError, KeyError):
        return Unavailable(f"the key service answered {error.code}; {_START}")
    if code == "erased":
        return KeyErased(text)
    if code == "unknown_unit":
        return SealingError(text)
    return Unavailable(text) if code in PASSING else KeyRefused(code, text)
