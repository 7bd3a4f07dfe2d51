// What stands at a zone's apex for the zone itself: SOA and NS, from the zone's configuration.

#include <inttypes.h>
#include <string.h>

#include "zone.h"

// Seconds of SOA and NS; refresh, retry, expire and the time that a negative answer is kept. Short, because instances come and go.
#define SOA_TTL "3600"
#define NS_TTL "300"
#define TIMERS "120 60 86400 30"
// The longest name, and the longest label (RFC 1035 section 2.3.4).
#define LONGEST 253
#define LABEL 63

static bool is_plain(uint8_t c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

// Whether it is a domain name without its final dot. A dot in a label may be escaped, as mailboxes have it.
static bool is_domain(plugin_string_t name) {
  size_t label = 0;
  for (size_t i = 0; i < name.len; i++) {
    if (name.ptr[i] == '\\' && i + 1 < name.len && name.ptr[i + 1] == '.') {
      i++;
    } else if (name.ptr[i] == '.') {
      if (label == 0 || label > LABEL) {
        return false;
      }
      label = 0;
    } else if (is_plain(name.ptr[i])) {
      label++;
    } else {
      return false;
    }
  }
  return name.len <= LONGEST && label >= 1 && label <= LABEL;
}

// Takes a name's final dot away and puts it into lower case.
static bool domain(const char *key, plugin_string_t name, plugin_string_t *ret, error_t *error) {
  *ret = copy(name);
  if (ret->len && ret->ptr[ret->len - 1] == '.') {
    ret->len--;
  }
  if (!is_domain(*ret)) {
    return refuse(error, "invalid", "invalid value for \"%s\": \"%.*s\" is no domain name", key, SHOWN(name));
  }
  for (size_t i = 0; i < ret->len; i++) {
    if (ret->ptr[i] >= 'A' && ret->ptr[i] <= 'Z') {
      ret->ptr[i] += 'a' - 'A';
    }
  }
  return true;
}

// Takes what stands before the next `end` from the beginning of `rest`; all of it, and false, where there is none.
static bool take(plugin_string_t *rest, char end, plugin_string_t *taken) {
  uint8_t *found = rest->len ? memchr(rest->ptr, end, rest->len) : NULL;
  *taken = (plugin_string_t){rest->ptr, found ? (size_t)(found - rest->ptr) : rest->len};
  size_t used = taken->len + (found ? 1 : 0);
  *rest = (plugin_string_t){rest->ptr + used, rest->len - used};
  return found;
}

static plugin_string_t trimmed(plugin_string_t text) {
  while (text.len && text.ptr[0] == ' ') {
    text = (plugin_string_t){text.ptr + 1, text.len - 1};
  }
  while (text.len && text.ptr[text.len - 1] == ' ') {
    text.len--;
  }
  return text;
}

static bool read_servers(const zone_t *zone, plugin_list_string_t *servers, error_t *error) {
  const plugin_string_t *listed = option(&zone->config, NAMESERVERS);
  // A server in the zone itself would need an address there, or BIND does not load the zone.
  plugin_string_t rest = listed && listed->len ? *listed : text("localhost"), server;
  size_t most = 1;
  for (size_t i = 0; i < rest.len; i++) {
    most += rest.ptr[i] == ',';
  }
  *servers = (plugin_list_string_t){room(most * sizeof *servers->ptr), 0};
  bool more;
  do {
    more = take(&rest, ',', &server);
    if (!domain(NAMESERVERS, trimmed(server), &servers->ptr[servers->len++], error)) {
      return false;
    }
  } while (more);
  return true;
}

// `me.too@example.org` as the SOA record has it: `me\.too.example.org` (RFC 1035 section 8).
static bool mailbox(plugin_string_t address, plugin_string_t *ret, error_t *error) {
  plugin_string_t host = address, user, checked;
  if (!take(&host, '@', &user)) {
    return domain(CONTACT, address, ret, error);
  }
  plugin_string_t escaped = {room(2 * user.len), 0};
  for (size_t i = 0; i < user.len; i++) {
    if (user.ptr[i] == '.') {
      escaped.ptr[escaped.len++] = '\\';
    }
    escaped.ptr[escaped.len++] = user.ptr[i];
  }
  // The host by itself, too: what is whole with a final dot would be so without a host.
  return domain(CONTACT, host, &checked, error) &&
         domain(CONTACT, owned("%.*s.%.*s", SHOWN(escaped), SHOWN(host)), ret, error);
}

bool read_apex(const zone_t *zone, apex_t *apex, error_t *error) {
  const plugin_string_t *address = option(&zone->config, CONTACT);
  if (!read_servers(zone, &apex->servers, error)) {
    return false;
  }
  if (address && address->len) {
    return mailbox(*address, &apex->contact, error);
  }
  apex->contact = owned("hostmaster.%.*s", SHOWN(zone->name));
  if (apex->contact.len > LONGEST) {
    // No mailbox can be in a zone with so long a name.
    apex->contact = text("hostmaster.localhost");
  }
  return true;
}

bool put_apex(file_t *file, const apex_t *apex, uint64_t version, error_t *error) {
  plugin_string_t line = owned("@ " SOA_TTL " IN SOA %.*s. %.*s. %" PRIu32 " " TIMERS "\n",
                               SHOWN(apex->servers.ptr[0]), SHOWN(apex->contact), (uint32_t)version);
  if (!put(file, line, error)) {
    return false;
  }
  for (size_t i = 0; i < apex->servers.len; i++) {
    if (!put(file, owned("@ " NS_TTL " IN NS %.*s.\n", SHOWN(apex->servers.ptr[i])), error)) {
      return false;
    }
  }
  return true;
}
