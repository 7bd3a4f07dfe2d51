"""Networks that are a bridge and nothing else: the instances on one reach one another, and nobody outside. They give
themselves addresses.

There is nothing to be remembered and nothing to be tidied up: the bridge is the network, an instance's interface goes with
its namespace, and every function of the host's makes what is there match. A call may be repeated at any time.
"""

from typing import Optional

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import link
from wit_world.imports.hutch_host_types import Error
from wit_world.imports.hutch_network_types import NetworkRef, NicRef

MTU = "bridge.mtu"
# What the core lets an interface have on any network; this driver adds nothing.
NIC_KEYS = {"boot.priority", "host_name", "hwaddr", "name", "network", "nictype", "parent", "type"}


def refuse(code: str, message: str) -> Err:
    """An error as the host wants it: a code, and one sentence in lower case that names the object."""
    return Err(Error(code=code, message=message, retryable=False, details=[]))


def check_keys(what: str, config: list, known: set) -> None:
    for key, _ in config:
        if key not in known:
            raise refuse("invalid", f"invalid option for {what}: {key!r}")


def mtu(network: NetworkRef) -> Optional[int]:
    text = dict(network.config).get(MTU)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1280 <= int(text) <= 65535):
        raise refuse("invalid", f"invalid value for {MTU!r}: {text!r} is not a number from 1280 to 65535")
    return int(text)


class Network(exports.Network):
    def validate(self, network: NetworkRef, current: Optional[list]) -> list:
        check_keys(f"network {network.name}", network.config, {MTU})
        mtu(network)
        return network.config

    def start(self, network: NetworkRef) -> None:
        # An error of the host's goes on to the caller as it is.
        link.ensure_bridge(network.name, None, mtu(network))
        link.set_up(network.name, True)

    def update(self, network: NetworkRef, old: list) -> None:
        self.start(network)

    def stop(self, network: NetworkRef) -> None:
        link.delete(network.name)

    def reconcile(self, network: NetworkRef, nics: list) -> list:
        return []


class Nic(exports.Nic):
    def validate(self, network: NetworkRef, config: list) -> None:
        check_keys(f"an interface on network {network.name}", config, NIC_KEYS)

    def attach(self, network: NetworkRef, nic: NicRef) -> None:
        if not nic.netns:
            raise refuse(
                "unsupported", f"interface {nic.device} of {nic.instance} has no network namespace to be put into"
            )
        link.ensure_veth(nic.host_name, network.name, nic.netns, nic.guest_name, nic.hwaddr, mtu(network), [])

    def detach(self, network: NetworkRef, nic: NicRef) -> None:
        # Without a namespace the interface went with it, and deleting one takes the kernel some 20 ms.
        if nic.netns:
            link.delete(nic.host_name)
