// Networks on an interface of the machine (macvlan, ip-link(8)): each instance has a hardware address of its own on the wire that the
// interface is on, and takes an IP address from whoever gives them out there.
//
// The network is nothing by itself: it has no interface of its own, and an instance's goes with its namespace. So there is nothing to
// be remembered and nothing to be tidied up, and a call may be repeated at any time.

#include "support.h"

typedef hutch_host_types_error_t error_t;
typedef hutch_host_types_options_t options_t;
typedef hutch_network_types_network_ref_t network_t;
typedef hutch_network_types_nic_ref_t nic_t;

static const char *const NETWORK_KEYS[] = {"parent", "mode", "mtu"};
static const char *const MODES[] = {"bridge", "private", "vepa"};
// What the core lets an interface have on any network; this driver adds nothing.
static const char *const NIC_KEYS[] = {"boot.priority", "host_name", "hwaddr", "name",
                                       "network",       "nictype",   "parent", "type"};

// A network's configuration, read.
typedef struct {
  plugin_string_t parent, mode;
  // 0 for the parent's.
  uint32_t mtu;
} settings_t;

static bool read_mtu(plugin_string_t value, uint32_t *mtu, error_t *error) {
  // At most 5 digits: what is longer is out of range, and would not fit.
  bool number = value.len >= 1 && value.len <= 5;
  *mtu = 0;
  for (size_t i = 0; number && i < value.len; i++) {
    number = value.ptr[i] >= '0' && value.ptr[i] <= '9';
    *mtu = *mtu * 10 + (uint32_t)(value.ptr[i] - '0');
  }
  if (!number || *mtu < 1280 || *mtu > 65535) {
    return refuse(error, "invalid", "invalid value for \"mtu\": \"%.*s\" is not a number from 1280 to 65535",
                  SHOWN(value));
  }
  return true;
}

static bool read_mode(plugin_string_t value, error_t *error) {
  for (size_t i = 0; i < COUNT(MODES); i++) {
    if (is(value, MODES[i])) {
      return true;
    }
  }
  return refuse(error, "invalid", "invalid value for \"mode\": \"%.*s\" is none of bridge, private, vepa",
                SHOWN(value));
}

static bool read_settings(const network_t *network, settings_t *settings, error_t *error) {
  const plugin_string_t *parent = option(&network->config, "parent");
  const plugin_string_t *mode = option(&network->config, "mode"), *mtu = option(&network->config, "mtu");
  if (!check_keys("a network", &network->config, NETWORK_KEYS, COUNT(NETWORK_KEYS), error)) {
    return false;
  }
  if (!parent || parent->len == 0) {
    return refuse(error, "invalid", "network %.*s needs \"parent\", the interface of the machine that it lies on",
                  SHOWN(network->name));
  }
  *settings = (settings_t){*parent, mode ? *mode : text(MODES[0]), 0};
  return read_mode(settings->mode, error) && (!mtu || read_mtu(*mtu, &settings->mtu, error));
}

bool exports_hutch_network_network_validate(network_t *network, options_t *maybe_current, options_t *ret,
                                            error_t *error) {
  settings_t settings;
  if (!read_settings(network, &settings, error)) {
    return false;
  }
  const plugin_string_t *before = maybe_current ? option(maybe_current, "parent") : NULL;
  if (before && !same(*before, settings.parent)) {
    return refuse(error, "invalid", "network %.*s lies on %.*s, which its instances stay on: make another network",
                  SHOWN(network->name), SHOWN(*before));
  }
  // What a function is given is its own: it may be answered with.
  *ret = network->config;
  return true;
}

bool exports_hutch_network_network_start(network_t *network, error_t *error) {
  settings_t settings;
  hutch_host_link_option_link_info_t parent;
  // An error of the host's goes on to the caller as it is.
  if (!read_settings(network, &settings, error) || !hutch_host_link_get(&settings.parent, &parent, error)) {
    return false;
  }
  if (!parent.is_some) {
    return refuse(error, "unavailable", "the interface %.*s, which network %.*s lies on, is not there",
                  SHOWN(settings.parent), SHOWN(network->name));
  }
  return true;
}

bool exports_hutch_network_network_update(network_t *network, options_t *old, error_t *error) {
  (void)old;
  return exports_hutch_network_network_start(network, error);
}

bool exports_hutch_network_network_stop(network_t *network, error_t *error) {
  (void)network, (void)error;
  return true;
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
  settings_t settings;
  if (nic->netns.len == 0) {
    return refuse(error, "unsupported", "interface %.*s of %.*s has no network namespace to be put into",
                  SHOWN(nic->device), SHOWN(nic->instance));
  }
  return read_settings(network, &settings, error) &&
         hutch_host_link_ensure_macvlan(&settings.parent, &nic->netns, &nic->guest_name, &nic->hwaddr, &settings.mode,
                                        settings.mtu ? &settings.mtu : NULL, error);
}

bool exports_hutch_network_nic_detach(network_t *network, nic_t *nic, error_t *error) {
  (void)network;
  // Without a namespace the interface went with it.
  return nic->netns.len == 0 ||
         hutch_host_link_delete_macvlan(&nic->netns, &nic->guest_name, &nic->hwaddr, error);
}
