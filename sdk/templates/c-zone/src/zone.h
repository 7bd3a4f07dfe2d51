// What the parts of the driver have of one another.
#pragma once

#include "support.h"

typedef hutch_host_types_error_t error_t;
typedef hutch_host_types_options_t options_t;
typedef hutch_host_types_tree_path_t tree_path_t;
typedef hutch_zone_types_zone_ref_t zone_t;

// Keys of a zone's configuration.
#define NAMESERVERS "dns.nameservers"
#define CONTACT "dns.contact"

// What stands at a zone's apex for the zone itself: names without a final dot.
typedef struct {
  // The first is the primary.
  plugin_list_string_t servers;
  // The mailbox of whoever is responsible, as a domain name.
  plugin_string_t contact;
} apex_t;

// A file that is written in parts.
typedef struct {
  tree_path_t place;
  // What is not written yet.
  uint8_t *bytes;
  size_t length;
  uint64_t written;
} file_t;

// Reads it from the zone's configuration. Refuses what is no name.
bool read_apex(const zone_t *zone, apex_t *apex, error_t *error);
// Writes SOA and NS, with the zone's version as the serial number.
bool put_apex(file_t *file, const apex_t *apex, uint64_t version, error_t *error);

// A file of which nothing is there yet.
file_t begin(tree_path_t place);
// Adds to it.
bool put(file_t *file, plugin_string_t text, error_t *error);
// Writes what was not written yet: the file is whole.
bool flush(file_t *file, error_t *error);
