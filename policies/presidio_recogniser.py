"""Presidio's pattern recognisers behind our interface: an optional extra, without spaCy models, network or names.

Only recognisers that need no language model are asked (`presidio_analyzer.predefined_recognizers`, by their patterns,
checksums and, for phones, `phonenumbers`), so the same text gives the same findings. Its recognisers of e-mail and URLs
are left out: they fetch a list of domains over the network (`tldextract`). Slower than our own detectors by a factor of
a hundred: for what those lack, not in their place. No key of `output-policy.yaml` names it: it is given in Python, as
`OutputPolicy(document, recognisers=[PresidioRecogniser()])`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final

from sluicegate.policies.detectors import Match
from sluicegate.policies.faults import suggest
from sluicegate.schemas.errors import BadInput

ENTITY_CLASSES: Final[Mapping[str, str]] = {
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip",
    "PHONE_NUMBER": "phone",
    "US_SSN": "ssn",
    "US_BANK_NUMBER": "us_bank_number",
    "US_DRIVER_LICENSE": "us_driver_license",
    "US_ITIN": "us_itin",
    "US_PASSPORT": "us_passport",
    "UK_NHS": "uk_nhs",
    "MEDICAL_LICENSE": "medical_license",
    "CRYPTO": "crypto_wallet",
}
"""The class that each kind of finding of Presidio becomes."""

_RECOGNISERS: Final[Mapping[str, str]] = {
    "CREDIT_CARD": "CreditCardRecognizer",
    "IBAN_CODE": "IbanRecognizer",
    "IP_ADDRESS": "IpRecognizer",
    "PHONE_NUMBER": "PhoneRecognizer",
    "US_SSN": "UsSsnRecognizer",
    "US_BANK_NUMBER": "UsBankRecognizer",
    "US_DRIVER_LICENSE": "UsLicenseRecognizer",
    "US_ITIN": "UsItinRecognizer",
    "US_PASSPORT": "UsPassportRecognizer",
    "UK_NHS": "NhsRecognizer",
    "MEDICAL_LICENSE": "MedicalLicenseRecognizer",
    "CRYPTO": "CryptoRecognizer",
}
ENTITIES: Final = ("CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS", "PHONE_NUMBER", "US_SSN")
"""Those asked for where none are named."""
SCORE_MIN: Final = 0.4
"""Presidio's own confidence, 0 to 1; what it gives a bare pattern of digits is less."""


class PresidioRecogniser:
    """A `Recogniser` that asks Presidio. Raises BadInput where the extra is missing or an entity is unknown."""

    def __init__(self, entities: Sequence[str] = ENTITIES, score_min: float = SCORE_MIN) -> None:
        for entity in entities:
            if entity not in ENTITY_CLASSES:
                raise BadInput(
                    f"there is no entity `{entity}` without a language model; {suggest(entity, ENTITY_CLASSES)}"
                )
        try:
            module: Any = import_module("presidio_analyzer.predefined_recognizers")
        except ImportError as problem:
            raise BadInput(
                "presidio is not installed; in the clone, install the extra `sluicegate[presidio]`: "
                "`.venv/bin/pip install -e '.[presidio]'`"
            ) from problem
        self._asked = [(entity, getattr(module, _RECOGNISERS[entity])()) for entity in entities]
        self._score_min = score_min

    def find(self, text: str, key: str | None) -> Iterable[Match]:
        """What Presidio's patterns find in the text."""
        for entity, recogniser in self._asked:
            for result in recogniser.analyze(text, [entity], None) or ():
                if result.score >= self._score_min and result.start < result.end:
                    name = f"presidio_{entity.lower()}"
                    yield Match(name, ENTITY_CLASSES[entity], int(result.start), int(result.end))
