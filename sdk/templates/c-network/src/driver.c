// Networks that are a bridge and nothing else: the instances on one reach one another, and nobody outside. They give themselves
// addresses.
//
// There is nothing to be remembered and nothing to be tidied up: the bridge is the network, an instance's interface goes with its
// namespace, and every function of the host's makes what is there match. A call may be repeated at any time.

#include "support.h"

#define MTU "bridge.mtu"

typedef hutch_host_types_error_t error_t;
typedef hutch_host_types_options_t options_t;
typedef hutch_network_types_network_ref_t network_t;
typedef hutch_network_types_nic_ref_t nic_t;

static const char *const NETWORK_KEYS[] = {MTU};
// What the core lets an interface have on any network; this driver adds nothing.
static const char *const NIC_KEYS[] = {"boot.priority", "host_name", "hwaddr", "name",
                                       "network",       "nictype",   "parent", "type"};

// Reads the largest packet; 0 where none is set.
static bool read_mtu(const network_t *network, uint32_t *mtu, error_t *error) {
  const plugin_string_t *value = option(&network->config, MTU);
  *mtu = 0;
  if (!value) {
    return true;
  }
  // At most 5 digits: what is longer is out of range, and would not fit.
  bool number = value->len >= 1 && value->len <= 5;
  for (size_t i = 0; number && i < value->len; i++) {
    number = value->ptr[i] >= '0' && value->ptr[i] <= '9';
    *mtu = *mtu * 10 + (uint32_t)(value->ptr[i] - '0');
  }
  if (!number || *mtu < 1280 || *mtu > 65535) {
    return refuse(error, "invalid", "invalid value for \"" MTU "\": \"%.*s\" is not a number from 1280 to 65535",
                  SHOWN(*value));
  }
  return true;
}

bool exports_hutch_network_network_validate(network_t *network, options_t *maybe_current, options_t *ret,
                                            error_t *error) {
  (void)maybe_current;
  uint32_t mtu;
  if (!check_keys("a network", &network->config, NETWORK_KEYS, COUNT(NETWORK_KEYS), error) ||
      !read_mtu(network, &mtu, error)) {
    return false;
  }
  // What a function is given is its own: it may be answered with.
  *ret = network->config;
  return true;
}

bool exports_hutch_network_network_start(network_t *network, error_t *error) {
  uint32_t mtu;
  // An error of the host's goes on to the caller as it is.
  return read_mtu(network, &mtu, error) &&
         hutch_host_link_ensure_bridge(&network->name, NULL, mtu ? &mtu : NULL, error) &&
         hutch_host_link_set_up(&network->name, true, error);
}

bool exports_hutch_network_network_update(network_t *network, options_t *old, error_t *error) {
  (void)old;
  return exports_hutch_network_network_start(network, error);
}

bool exports_hutch_network_network_stop(network_t *network, error_t *error) {
  return hutch_host_link_delete(&network->name, error);
}

bool exports_hutch_network_network_reconcile(network_t *network, exports_hutch_network_network_list_nic_ref_t *nics,
                                             plugin_list_string_t *ret, error_t *error) {
  (void)network, (void)nics, (void)error;
  *ret = (plugin_list_string_t){NULL, 0};
  return true;
}

bool exports_hutch_network_nic_validate(network_t *network, options_t *config, error_t *error) {
  (void)network;
  return check_keys("an interface", config, NIC_KEYS, COUNT(NIC_KEYS), error);
}

bool exports_hutch_network_nic_attach(network_t *network, nic_t *nic, error_t *error) {
  uint32_t mtu;
  if (nic->netns.len == 0) {
    return refuse(error, "unsupported", "interface %.*s of %.*s has no network namespace to be put into",
                  SHOWN(nic->device), SHOWN(nic->instance));
  }
  options_t none = {NULL, 0};
  return read_mtu(network, &mtu, error) &&
         hutch_host_link_ensure_veth(&nic->host_name, &network->name, &nic->netns, &nic->guest_name, &nic->hwaddr,
                                     mtu ? &mtu : NULL, &none, error);
}

bool exports_hutch_network_nic_detach(network_t *network, nic_t *nic, error_t *error) {
  (void)network;
  // Without a namespace the interface went with it, and deleting one takes the kernel some 20 ms.
  return nic->netns.len == 0 || hutch_host_link_delete(&nic->host_name, error);
}
