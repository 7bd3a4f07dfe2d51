// Networks that are a bridge and nothing else: the instances on one reach one another, and nobody outside. They give themselves
// addresses.
//
// There is nothing to be remembered and nothing to be tidied up: the bridge is the network, an instance's interface goes with its
// namespace, and every function of the host's makes what is there match. A call may be repeated at any time.

import * as link from "hutch:host/link@0.1.0";
import { checkKeys, refuse } from "./errors.js";

const MTU = "bridge.mtu";
const NETWORK_KEYS = new Set([MTU]);
// What the core lets an interface have on any network; this driver adds nothing.
const NIC_KEYS = new Set(["boot.priority", "host_name", "hwaddr", "name", "network", "nictype", "parent", "type"]);

function mtu(ref) {
  const text = ref.config.find(([key]) => key === MTU)?.[1];
  if (text === undefined) {
    return undefined;
  }
  const number = Number(text);
  if (!/^[0-9]{4,5}$/.test(text) || number < 1280 || number > 65535) {
    throw refuse("invalid", `invalid value for "${MTU}": ${JSON.stringify(text)} is not a number from 1280 to 65535`);
  }
  return number;
}

export const network = {
  validate(ref, _current) {
    checkKeys(`network ${ref.name}`, ref.config, NETWORK_KEYS);
    mtu(ref);
    return ref.config;
  },

  start(ref) {
    link.ensureBridge(ref.name, undefined, mtu(ref));
    link.setUp(ref.name, true);
  },

  update(ref, _old) {
    network.start(ref);
  },

  stop(ref) {
    link.delete(ref.name);
  },

  reconcile(_ref, _nics) {
    return [];
  },
};

export const nic = {
  validate(ref, config) {
    checkKeys(`an interface on network ${ref.name}`, config, NIC_KEYS);
  },

  attach(ref, nicRef) {
    if (!nicRef.netns) {
      throw refuse(
        "unsupported",
        `interface ${nicRef.device} of ${nicRef.instance} has no network namespace to be put into`,
      );
    }
    link.ensureVeth(nicRef.hostName, ref.name, nicRef.netns, nicRef.guestName, nicRef.hwaddr, mtu(ref), []);
  },

  detach(_ref, nicRef) {
    // Without a namespace the interface went with it, and deleting one takes the kernel some 20 ms.
    if (nicRef.netns) {
      link.delete(nicRef.hostName);
    }
  },
};
