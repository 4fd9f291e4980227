"""What the entries of `network_allowlist` say of names and addresses."""

from __future__ import annotations

import ipaddress

import pytest

from sluicegate.clients.allowlist import ENTRIES_MAX, Allowlist, Unspeakable, is_special, parse_target, printable
from sluicegate.schemas.errors import BadInput

LIST = Allowlist(
    [
        "api.example.com",
        "db.example.com:5432",
        "*.example.org",
        "203.0.114.7",
        "[2a00:1450::1]:443",
        "2a00:1450::2",
        "198.41.0.0/24",
        "10.1.0.0/16:5432",
        "[fd00::/8]:443",
        "::ffff:10.0.0.9",
    ]
)


@pytest.mark.parametrize(
    "asked",
    [
        "api.example.com:443",
        "api.example.com:80",
        "db.example.com:5432",
        "a.example.org:443",
        "a.b.example.org:80",
        "203.0.114.7:443",
        "[2a00:1450::1]:443",
        "[2a00:1450::2]:80",
        "198.41.0.255:443",
        "10.1.2.3:5432",
        "[fdff::1]:443",
        "[::ffff:10.0.0.9]:443",
    ],
)
def test_what_an_entry_names_may_be_reached(asked: str) -> None:
    """A host, a host at a port, names below a host, addresses, blocks; 443 and 80 where an entry names no port."""
    assert LIST.refuses(parse_target(asked)) is None


@pytest.mark.parametrize(
    "asked",
    [
        "api.example.com:8443",
        "db.example.com:443",
        "example.org:443",
        "badexample.org:443",
        "example.org.evil.example:443",
        "203.0.114.8:443",
        "[2a00:1450::1]:80",
        "198.41.1.0:443",
        "10.1.2.3:443",
        "10.2.0.0:5432",
        "[fdff::1]:80",
        "10.0.0.9:443",
        "[::ffff:10.1.2.3]:5432",
    ],
)
def test_what_no_entry_names_may_not(asked: str) -> None:
    """No other port, not the parent of `*.`, no name that only ends alike, no address beside a block, no other form."""
    assert LIST.refuses(parse_target(asked)) is not None


@pytest.mark.parametrize(
    "address",
    "0.0.0.0 10.0.0.1 100.64.0.1 127.0.0.1 169.254.169.254 172.16.0.1 192.0.0.8 192.0.2.1 192.168.1.1 198.18.0.1 "
    "203.0.113.1 224.0.0.1 255.255.255.255 :: ::1 ::7f00:1 ::ffff:8.8.8.8 64:ff9b::808:808 64:ff9b:1::1 100::1 2001::1 "
    "2001:db8::1 2002:808:808::1 3fff::1 5f00::1 4000::1 fc00::1 fe80::1 fec0::1 ff02::1".split(),
)
def test_an_address_that_is_no_ordinary_public_one_is_special(address: str) -> None:
    """Private, local, shared, multicast, reserved, documentation, and IPv6 that carries IPv4: opened only by itself."""
    found = ipaddress.ip_address(address)
    assert is_special(found)
    every = Allowlist(["0.0.0.0/0", "::/0", "2000::/3", "name.example"])
    assert every.refuses_address(found, 443, named=True) is not None
    assert Allowlist([address]).refuses_address(found, 443, named=True) is None


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "2a00:1450:4001::200e"])
def test_a_public_address_of_a_listed_name_is_reached(address: str) -> None:
    """An ordinary address needs no entry when a listed name resolved to it, and needs one when asked for itself."""
    found = ipaddress.ip_address(address)
    assert LIST.refuses_address(found, 443, named=True) is None
    assert LIST.refuses_address(found, 443, named=False) is not None


def test_a_block_opens_private_addresses_only_where_it_means_them() -> None:
    """`10.0.0.0/8` opens private addresses; `8.0.0.0/6`, which holds them among public ones, does not."""
    found = ipaddress.ip_address("10.0.0.1")
    assert Allowlist(["10.0.0.0/8"]).refuses_address(found, 443, named=False) is None
    assert Allowlist(["8.0.0.0/6"]).refuses_address(found, 443, named=False) is not None


def test_an_empty_list_opens_nothing() -> None:
    """No entry, no way out."""
    assert Allowlist([]).refuses(parse_target("a.example:443")) == "not in the allowlist"


def test_a_list_has_a_limit() -> None:
    """More entries than the limit are refused as a whole."""
    with pytest.raises(BadInput, match="at most"):
        Allowlist([f"a{n}.example" for n in range(ENTRIES_MAX + 1)])


@pytest.mark.parametrize("port", ["0", "65536", "", "-1", "+80", "080", "8 0", "٨٠", "1e3"])
def test_a_port_is_plain_digits(port: str) -> None:
    """1 to 65535 without sign, space, leading zero or digits of other scripts."""
    with pytest.raises(Unspeakable):
        parse_target(f"a.example:{port}")


def test_printable_text_is_bounded() -> None:
    """Text of a stranger is spelt out and cut."""
    assert printable("a\u202e\x1b\n") == "a\\u{202e}\\u{1b}\\u{a}"
    assert printable("x" * 500, 10) == "xxxxxxxxxx..."
