"""Which addresses a server may dial on a stranger's word: public ones, and those that are named."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

# IPv6 addresses that stand for an IPv4 address, which must be public itself. The standard library
# knows of the mapped, 6to4 and Teredo forms; these two hold it in their last four bytes.
_IPV4_COMPATIBLE = IPv6Network("::/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
# So does ISATAP, behind one of these.
_ISATAP = (bytes.fromhex("00005efe"), bytes.fromhex("02005efe"))

# Not public, though the standard library of some Python version, or of all, has them so.
_INSIDE = (
    IPv4Network("192.0.0.0/24"),  # of protocols; metadata of Oracle's cloud
    IPv4Network("168.63.129.16/32"),  # metadata of Microsoft's cloud
    IPv4Network("192.88.99.0/24"),  # the next 6to4 relay
    IPv6Network("3fff::/20"),  # documentation
)


class NamedHosts:
    """Hosts that may be dialled though they are not public.

    Args:
        names: names of hosts, ``.example.com`` for all below it, addresses, and networks.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names: set[str] = set()
        self._networks: list[IPv4Network | IPv6Network] = []
        for name in names:
            try:
                self._networks.append(ip_network(name))
            except ValueError:
                self._names.add(name.lower())
        self._below = tuple(name for name in self._names if name.startswith("."))

    def has(self, host: str) -> bool:
        """Whether ``host``, in lower case, is named."""
        return host in self._names or host.endswith(self._below)

    def has_address(self, address: str) -> bool:
        """Whether it is in one of the networks."""
        ip = ip_address(address.partition("%")[0])
        return any(ip in network for network in self._networks)


def is_public(address: str) -> bool:
    """Whether ``address`` belongs to the public internet, and so does an IPv4 address inside it."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv4Address):
        return _is_public_itself(ip)
    if ip in _NAT64_LOCAL:
        return False
    embedded = _embedded(ip)
    if embedded:
        return all(_is_public_itself(ipv4) for ipv4 in embedded)
    return _is_public_itself(ip)


def _is_public_itself(ip: IPv4Address | IPv6Address) -> bool:
    # is_global alone lets multicast through, and, depending on the Python version, reserved ranges.
    site_local = isinstance(ip, IPv6Address) and ip.is_site_local
    inside = any(ip in network for network in _INSIDE)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or site_local or inside)


def _embedded(ip: IPv6Address) -> list[IPv4Address]:
    if ip in _IPV4_COMPATIBLE or ip in _NAT64 or ip.packed[8:12] in _ISATAP:
        return [IPv4Address(ip.packed[-4:])]
    if ip.teredo:
        return list(ip.teredo)
    return [ipv4 for ipv4 in (ip.ipv4_mapped, ip.sixtofour) if ipv4]
