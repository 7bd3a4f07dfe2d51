// Zones as master files (RFC 1035 section 5) in one directory, each named as its zone, for a name server that reads them.
//
// What was published is noted in the key-value store before anything is written, so that no file is left that nobody knows of. A file
// is written beside its place and put there as a whole: a name server that looks meanwhile reads the old one. This file has the zones, apex.c
// what stands in each for the zone itself, and file.c the writing.

#include <stdio.h>
#include <string.h>

#include "zone.h"

// The place in the manifest, and the key of a zone's version in the store.
#define ROOT "zones"
#define KEY "version/"
// Record sets of one page, and keys.
#define PAGE 500
#define KEYS_PAGE 100

// What a zone's configuration may have.
static const char *const KEYS[] = {NAMESERVERS, CONTACT};

static tree_path_t place(plugin_string_t name) {
  return (tree_path_t){text(ROOT), name};
}

// Where the zone's file is written first. No zone's name begins with a dot.
static tree_path_t aside(plugin_string_t name) {
  return (tree_path_t){text(ROOT), owned(".%.*s", SHOWN(name))};
}

static plugin_string_t key(plugin_string_t name) {
  return owned(KEY "%.*s", SHOWN(name));
}

static bool take_away(plugin_string_t name, error_t *error) {
  tree_path_t file = place(name), fresh = aside(name);
  plugin_string_t noted = key(name);
  return hutch_host_fs_discard(&file, error) && hutch_host_fs_discard(&fresh, error) &&
         hutch_host_kv_delete(&noted, error);
}

bool exports_hutch_zone_zone_validate(zone_t *zone, options_t *maybe_current, options_t *ret, error_t *error) {
  (void)maybe_current;
  apex_t apex;
  if (!check_keys("a zone", &zone->config, KEYS, COUNT(KEYS), error) || !read_apex(zone, &apex, error)) {
    return false;
  }
  // What a function is given is its own: it may be answered with.
  *ret = zone->config;
  return true;
}

// Writes the records of one set, each on a line.
static bool put_set(file_t *file, const hutch_host_records_record_set_t *set, error_t *error) {
  // A name of at most 253 bytes, a number and a type.
  char head[512];
  int length = snprintf(head, sizeof head, "%.*s %u IN %.*s ", SHOWN(set->name), (unsigned)set->ttl, SHOWN(set->kind));
  if (length < 0 || (size_t)length >= sizeof head) {
    return refuse(error, "internal", "a record of \"%.*s\" has too long a name or type", SHOWN(set->name));
  }
  for (size_t i = 0; i < set->values.len; i++) {
    if (!put(file, text(head), error) || !put(file, set->values.ptr[i], error) || !put(file, text("\n"), error)) {
      return false;
    }
  }
  return true;
}

// Writes all records of the zone, page by page, each after the last record set of the one before.
static bool put_records(file_t *file, uint64_t version, error_t *error) {
  hutch_host_records_position_t after;
  hutch_host_records_list_record_set_t page;
  bool begun = false;
  for (;;) {
    if (!hutch_host_records_page(version, begun ? &after : NULL, PAGE, &page, error)) {
      return false;
    }
    if (page.len == 0) {
      return true;
    }
    for (size_t i = 0; i < page.len; i++) {
      if (!put_set(file, &page.ptr[i], error)) {
        return false;
      }
    }
    after.name = copy(page.ptr[page.len - 1].name);
    after.kind = copy(page.ptr[page.len - 1].kind);
    begun = true;
    // A zone may have 100,000 record sets, which are more than the instance's memory.
    hutch_host_records_list_record_set_free(&page);
  }
}

static bool write(const zone_t *zone, uint64_t version, error_t *error) {
  apex_t apex;
  if (!read_apex(zone, &apex, error)) {
    return false;
  }
  tree_path_t fresh = aside(zone->name), at = place(zone->name);
  file_t file = begin(fresh);
  return put(&file, owned("$ORIGIN %.*s.\n", SHOWN(zone->name)), error) && put_apex(&file, &apex, version, error) &&
         put_records(&file, version, error) && flush(&file, error) && hutch_host_fs_replace_file(&fresh, &at, error);
}

bool exports_hutch_zone_zone_publish(zone_t *zone, uint64_t version, error_t *error) {
  plugin_string_t noted = key(zone->name);
  plugin_option_list_u8_t held;
  // An error of the host's goes on to the caller as it is.
  if (!hutch_host_kv_get(&noted, &held, error)) {
    return false;
  }
  uint64_t known = 0;
  if (held.is_some && held.val.len == sizeof known) {
    memcpy(&known, held.val.ptr, sizeof known);
  }
  if (version < known) {
    return true;
  }
  plugin_list_u8_t now = {(uint8_t *)&version, sizeof version};
  return hutch_host_kv_set(&noted, &now, error) && write(zone, version, error);
}

bool exports_hutch_zone_zone_delete(zone_t *zone, error_t *error) {
  return take_away(zone->name, error);
}

static bool is_valid(plugin_string_t name, const exports_hutch_zone_zone_list_zone_ref_t *valid) {
  for (size_t i = 0; i < valid->len; i++) {
    if (same(valid->ptr[i].name, name)) {
      return true;
    }
  }
  return false;
}

static void tell(plugin_list_string_t *removed, plugin_string_t name) {
  plugin_string_t *list = room((removed->len + 1) * sizeof *list);
  memcpy(list, removed->ptr, removed->len * sizeof *list);
  list[removed->len++] = owned("the zone %.*s", SHOWN(name));
  removed->ptr = list;
}

bool exports_hutch_zone_zone_reconcile(exports_hutch_zone_zone_list_zone_ref_t *valid, plugin_list_string_t *ret,
                                       error_t *error) {
  plugin_string_t prefix = text(KEY), *after = NULL;
  plugin_list_string_t page;
  *ret = (plugin_list_string_t){room(0), 0};
  do {
    if (!hutch_host_kv_keys(&prefix, after, KEYS_PAGE, &page, error)) {
      return false;
    }
    for (size_t i = 0; i < page.len; i++) {
      after = &page.ptr[i];
      plugin_string_t name = {after->ptr + prefix.len, after->len - prefix.len};
      if (!is_valid(name, valid)) {
        if (!take_away(name, error)) {
          return false;
        }
        tell(ret, name);
      }
    }
  } while (page.len);
  return true;
}
