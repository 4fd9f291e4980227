"""Which hosts a job may reach: the entries of `network_allowlist`, and what they say of a name and of an address. Pure.

    api.example.com          this host, at the ports 443 and 80
    api.example.com:8443     this host, at this port alone
    *.example.com            every name below example.com, not example.com itself
    203.0.113.7, [2001:db8::1]:443, 198.51.100.0/24, 10.1.0.0/16:5432, [2001:db8::/32]:443

A name is judged twice: as text, by the entries that are names; then each address that it resolves to. An address that
is not an ordinary one of the public internet (private, loopback, link-local, shared, multicast, reserved, or IPv6 that
carries an IPv4 address inside) is reached only where an entry is that address or a block inside such a range:
`0.0.0.0/0` is all of the public internet and opens no private range. The ranges are those of IANA's special-purpose
registries.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from sluicegate.schemas.errors import BadInput

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_PORTS: Final = frozenset({443, 80})
"""The ports of an entry that names none."""
ENTRIES_MAX: Final = 1_000
NAME_CHARS_MAX: Final = 253
SHOWN_CHARS_MAX: Final = 200
"""How much of a stranger's text stands in a message, in characters."""

_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_LIKE_A_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_SPECIAL: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(each)
    for each in (
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
        "192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 "
        "203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 "
        # ::/96 and ::ffff:0:0/96 hold IPv4 addresses, as do 64:ff9b (NAT64), 2001::/32 (Teredo) and 2002 (6to4).
        "::/96 ::ffff:0:0/96 ::ffff:0:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 2001::/23 2001:db8::/32 2002::/16 "
        "2620:4f:8000::/48 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8"
    ).split()
)


class Target(msgspec.Struct, frozen=True):
    """Where a request wants to go: a name in its one spelling, or an address; never both."""

    port: int
    name: str | None = None
    address: Address | None = None

    def __str__(self) -> str:
        host = self.name or (f"[{self.address}]" if self.address and self.address.version == 6 else str(self.address))
        return f"{host}:{self.port}"


class Unspeakable(BadInput):
    """A host or port in no spelling that has one meaning; the text says which part."""


def printable(text: str, chars_max: int = SHOWN_CHARS_MAX) -> str:
    """A stranger's text for one line of a log: what is not printable ASCII is spelt out, the rest is cut."""
    cut = text[:chars_max]
    shown = "".join(sign if " " <= sign <= "~" else f"\\u{{{ord(sign):x}}}" for sign in cut)
    return (shown if len(shown) <= chars_max else shown[:chars_max]) + ("..." if len(text) > chars_max else "")


def parse_port(text: str) -> int:
    """A port in plain decimal. Raises Unspeakable."""
    port = int(text) if _PORT.fullmatch(text) else 0
    if not 0 < port < 65_536:
        raise Unspeakable(f"`{printable(text)}` is no port; write 1 to 65535 in plain digits")
    return port


def parse_host(text: str) -> str | Address:
    """A host as an address, or as a name in lower case without a dot at its end. Raises Unspeakable.

    Only dotted decimal is an IPv4 address; octal, hexadecimal, shortened and whole-number spellings are refused, since
    readers differ over them. IPv6 stands in brackets, without a zone. A name is ASCII (`xn--` for others).
    """
    if text.startswith("[") and text.endswith("]"):
        return _ipv6(text[1:-1])
    host = text.lower() if text.isascii() else text
    host = host.removesuffix(".")
    labels = host.split(".")
    if not host or len(host) > NAME_CHARS_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        raise Unspeakable(f"`{printable(text)}` is no host name; write it in ASCII, with `xn--` for other letters")
    if not _LIKE_A_NUMBER.fullmatch(labels[-1]):
        return host
    try:
        return ipaddress.IPv4Address(host)
    except ValueError:
        raise Unspeakable(f"`{printable(text)}` is no address in dotted decimal; write it like `192.0.2.1`") from None


def _ipv6(text: str) -> Address:
    try:
        return ipaddress.IPv6Address(text.replace("%", "no zone"))
    except ValueError:
        raise Unspeakable(f"`[{printable(text)}]` is no IPv6 address; write it without a zone") from None


def parse_target(text: str, default_port: int | None = None) -> Target:
    """`host:port`, or `host` where there is a default port. Raises Unspeakable."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, "" if default_port is None else str(default_port)
    parsed, number = parse_host(host), parse_port(port)
    return Target(number, name=parsed) if isinstance(parsed, str) else Target(number, address=parsed)


def is_special(address: Address) -> bool:
    """Whether an address is other than an ordinary one of the public internet."""
    if any(address in network for network in _SPECIAL if network.version == address.version):
        return True
    outside = isinstance(address, ipaddress.IPv6Address) and address not in _UNICAST
    return outside or address.is_multicast or not address.is_global


class _Entry(msgspec.Struct, frozen=True):
    ports: frozenset[int]
    name: str | None = None
    below: str | None = None
    network: Network | None = None

    def opens(self, address: Address) -> bool:
        """Whether it lists the address, and, where that is special, means it."""
        network = self.network
        if network is None or network.version != address.version or address not in network:
            return False
        return not is_special(address) or network.num_addresses == 1 or _inside_special(network)


def _inside_special(network: Network) -> bool:
    return any(
        network.subnet_of(each)  # type: ignore[arg-type]  # the versions are equal
        for each in _SPECIAL
        if each.version == network.version
    )


class Allowlist:
    """The entries, ready to be asked. Raises BadInput for an entry that is none: an unreadable list opens nothing."""

    def __init__(self, entries: Iterable[str]) -> None:
        given = list(entries)
        if len(given) > ENTRIES_MAX:
            raise BadInput(f"the allowlist has {len(given)} entries, at most {ENTRIES_MAX}; use `*.` and blocks")
        self._entries = tuple(_entry(each) for each in given)

    def refuses(self, target: Target) -> str | None:
        """Why a target may not be reached, by what it is written as; None when it may, as far as that goes."""
        if target.address is not None:
            return self.refuses_address(target.address, target.port, named=False)
        name = target.name or ""
        if any(target.port in each.ports and _names(each, name) for each in self._entries):
            return None
        if any(_names(each, name) for each in self._entries):
            return f"port {target.port} is not in the allowlist for this host"
        return "not in the allowlist"

    def refuses_address(self, address: Address, port: int, *, named: bool) -> str | None:
        """Why an address may not be connected to; ``named`` says that a listed name resolved to it."""
        listed = any(port in each.ports and each.opens(address) for each in self._entries)
        if listed or (named and not is_special(address)):
            return None
        if is_special(address):
            return f"{address} is no public address, and the allowlist does not list it at port {port}"
        return "not in the allowlist"


def allowlist_problem(entries: Iterable[str]) -> str | None:
    """What is wrong with an allowlist, None when a worker can enforce it."""
    try:
        Allowlist(entries)
    except BadInput as error:
        return str(error)
    return None


def _names(entry: _Entry, name: str) -> bool:
    return entry.name == name or (entry.below is not None and name.endswith(entry.below) and name != entry.below)


def _entry(text: str) -> _Entry:
    try:
        return _parsed(text)
    except (Unspeakable, ValueError) as error:  # what ipaddress raises says what is wrong with a block
        raise BadInput(f"`{printable(text)}` in the allowlist is no host, address or block: {error}") from None


def _parsed(text: str) -> _Entry:
    host, ports = _split(text)
    if "/" in host:
        block = host.removeprefix("[").removesuffix("]")
        if not block.rpartition("/")[2].isdecimal():  # a mask has two readings, of what it keeps and of what it drops
            raise Unspeakable("a block ends in the number of its leading bits, like `/24`")
        return _Entry(ports, network=ipaddress.ip_network(block))
    if host.startswith("*."):
        parsed = parse_host(host[2:])
        if not isinstance(parsed, str):
            raise Unspeakable("an address has no names below it; write the block")
        return _Entry(ports, below=f".{parsed}")
    parsed = parse_host(host)
    if isinstance(parsed, str):
        return _Entry(ports, name=parsed)
    return _Entry(ports, network=ipaddress.ip_network(parsed))


def _split(text: str) -> tuple[str, frozenset[int]]:
    """Host and ports of an entry; IPv6 may stand without brackets where no port follows."""
    if not text.startswith("[") and text.count(":") > 1:
        return f"[{text}]", DEFAULT_PORTS
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text, DEFAULT_PORTS
    return host, frozenset({parse_port(port)})
