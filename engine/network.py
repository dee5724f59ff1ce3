"""Which network interface the processes of several machines should meet on."""

import os
import socket
import struct
from collections.abc import MutableMapping

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

VARIABLE = "GLOO_SOCKET_IFNAME"
ELSEWHERE = "192.0.2.1"  # an address that no machine has (RFC 5737); it leads to the default route
GET_ADDRESS = 0x8915  # SIOCGIFADDR of Linux


def choose_interface(environment: MutableMapping[str, str] = os.environ) -> None:
    """Name the interface that leads to the first machine, in the variable that gloo reads; only with several machines.

    Otherwise gloo takes the address of this machine's own name. On many systems that is 127.0.1.1, where no other
    machine can reach it. What the user has set stays.
    """
    if int(environment.get("GROUP_WORLD_SIZE", 1)) == 1 or VARIABLE in environment:
        return
    address = own_address_towards(environment["MASTER_ADDR"])
    if address is None or address.startswith("127."):  # on the first machine, whose name may lead to itself
        address = own_address_towards(ELSEWHERE)
    interface = address and interface_of(address)
    if interface:
        environment[VARIABLE] = interface


def own_address_towards(host: str) -> str | None:
    """This machine's IPv4 address on the way to a host; None if there is no way. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError:
            return None
        return probe.getsockname()[0]


def interface_of(address: str) -> str | None:
    """The name of the interface that has an IPv4 address; None if none has, or if the system does not tell."""
    if fcntl is None:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(any_socket.fileno(), GET_ADDRESS, struct.pack("256s", name.encode()[:15]))
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
