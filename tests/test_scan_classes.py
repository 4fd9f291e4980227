"""Each class by example: what it is, and what looks like it and is something else."""

from __future__ import annotations

from typing import Any

import pytest

from sluicegate.policies.detectors import Detectors
from sluicegate.policies.scan import scan

DETECTORS = Detectors.build()


def classes(document: Any) -> set[str]:
    """The classes found in a document."""
    return {each.klass for each in scan(document, DETECTORS).findings}


@pytest.mark.parametrize(
    ("klass", "text"),
    [
        ("card", "4111111111111111"),
        ("card", "3782-822463-10005"),
        ("card", "30569309025904"),
        ("card", "5555 4111 1111 1111 1111"),
        ("card", "2024-05-03 4111 1111 1111 1111 123"),
        ("card", "card number: 4222222222222"),
        ("iban", "DE89 3704 0044 0532 0130 00 and more"),
        ("iban", "gb82west12345698765432"),
        ("ssn", "856-45-6789"),
        ("ssn", "Social Security Number is 856456789"),
        ("email", "Ask maria.lopez+x@mail.example.co.uk."),
        ("email", "josé@exämple.de"),
        ("email", "maria (at) example (dot) com"),
        ("phone", "+49 30 901820"),
        ("phone", "+4915112345678"),
        ("phone", "(425) 882-9090"),
        ("phone", "425.882.9090"),
        ("phone", "call me at 030 901820"),
        ("ip", "10.1.2.3"),
        ("ip", "http://93.184.216.34/x"),
        ("ip", "10.0.0.0/8"),
        ("ip", "src=10.1.2.3 dst=x"),
        ("ip", "root@10.1.2.3"),
        ("ip", "db.internal/10.1.2.3:5432"),
        ("ip", "2001:db8::8a2e:370:7334"),
        ("ip", "::ffff:192.0.2.1"),
        ("credential", "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ"),
        ("credential", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcDEF123_-x"),
        ("credential", "mongodb+srv://root:p/w@cluster0.mongodb.net"),
        ("credential", "https://user:password@git.example.com"),
        ("credential", "Authorization: Basic dXNlcjpwYXNzd29yZA=="),
        ("credential", "password = hunter2!x"),
        ("credential", "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzzzzzzKEY"),
        ("promise", "We guarantee a full refund."),
        ("legal_threat", "I will take legal action against you."),
        ("vip", "She is a VIP customer."),
        ("vip", "one of our most important clients."),
    ],
)
def test_a_value_is_found(klass: str, text: str) -> None:
    """A value of the class in a text is found as that class."""
    assert klass in classes({"text": text})


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111112",
        "ORD-4111111111111111x",
        "12-4111111111111111",
        "4111 1111 11111111",
        "card 1111 2222 3333 4444",
        "DE88 3704 0044 0532 0130 00",
        "000-12-3456",
        "666-12-3456",
        "912-12-3456",
        "123-00-4567",
        "123-45-0000",
        "order 123456789",
        "2024-05-03T10:22:11+0200",
        "logo@2x.png",
        "git@github.com:team/app.git",
        "react@18.2.0",
        "+1 111 111 1111",
        "11.05.2024",
        "call 2024-05-03",
        "phone model 14",
        "v1.2.3.4",
        "version 10.0.19045.3693",
        "Chrome/120.0.9.129",
        "127.0.0.1",
        "listens on 0.0.0.0:80",
        "255.255.255.0",
        "1.2.3.4.5",
        "std::vector<int> a::b ::1 10:22:11",
        "aa:bb:cc:dd:ee:ff",
        "https://example.com:8080/@team",
        "https://${USER}:${PASSWORD}@example.com",
        "password: required",
        "Password must be at least 12 characters",
        "token: 550e8400-e29b-41d4-a716-446655440000",
        "the secret is out",
        "eyJub3QiOiJhIHRva2VuIn0.eyJzdWIiOiIxMjM0In0.abcDEF123_-x",
        "978-3-16-148410-0",
        "0.41111111111111111",
        "d6j3+VIP/RtKL",
        "requests==2.31.0.1",
    ],
)
def test_what_only_looks_like_one_is_not(text: str) -> None:
    """Check digits, ranges, neighbours and the words before decide."""
    assert classes({"text": text}) == set()


@pytest.mark.parametrize(
    "document",
    [
        {"password": "hunter2"},
        {"db_password": "correcthorse"},
        {"client_secret": "550e8400-e29b-41d4-a716-446655440000"},
        {"config": {"API_KEY": "k3jf9sl2mdo4pq8w"}},
        {"access_token": "Xk3jf9sl2mdo4pq8wZ77"},
        {"env": "API_KEY=k3jf9sl2mdo4pq8w"},
    ],
)
def test_a_key_gives_its_value_away(document: Any) -> None:
    """What is random, or named a password, under a key that means a secret is one."""
    assert classes(document) == {"credential"}


@pytest.mark.parametrize(
    "document",
    [
        {"password": "required"},
        {"password": "[REDACTED]"},
        {"password": ""},
        {"password_reset": "pending"},
        {"secret": "none", "token": "refresh"},
        {"next_page_token": "k3jf9sl2mdo4pq8w"},
        {"api_key": "zyzyzyzy1"},
        {"primary_key": "customer_id", "cache_key": "orders:17:k3jf9sl2mdo4"},
        {"token_count": 81234567, "tokens": 123456789},
        {"checksum": "9e107d9d372bb6826bd81d3542a419d6"},
        {"version": "1.2.3.4"},
        {"phone_verified": True, "phone": None},
    ],
)
def test_a_key_alone_is_no_secret(document: Any) -> None:
    """A word, a place for a value, a count or another kind of key is left alone."""
    assert classes(document) == set()
