// Where the volumes of a pool lie.
#pragma once

#include "support.h"

typedef hutch_host_types_error_t error_t;
typedef hutch_host_types_options_t options_t;
typedef hutch_host_types_tree_path_t tree_path_t;
typedef hutch_storage_types_pool_ref_t pool_t;
typedef hutch_storage_types_volume_ref_t volume_t;

// The kinds of volumes, which are also the names of their directories.
#define KINDS 4
extern const char *const KIND[KINDS];

// A volume's place in its pool, and where it is made.
typedef struct {
  plugin_string_t name;
  const char *kind;
  // The volume: `origin` says what it was made from, `tree` is its content.
  tree_path_t home, origin, tree;
  // The same while it is being made.
  tree_path_t making, new_origin, new_tree;
} place_t;

// A place below the pool's root.
tree_path_t at(const pool_t *pool, const char *format, ...) __attribute__((format(printf, 2, 3)));
// The place of the volume, by `name` instead of its own where that is given. Refuses what has none in this pool.
bool find(const pool_t *pool, const volume_t *volume, const plugin_string_t *name, place_t *place, error_t *error);

// Whether the volume is there, and then what it was made from.
bool look(place_t *place, bool *there, plugin_string_t *origin, error_t *error);
// Refuses a volume that is not there.
bool require(place_t *place, error_t *error);
// Whether it was made from `origin` already. From anything else it may not be made again.
bool is_made(place_t *place, plugin_string_t origin, bool *made, error_t *error);
// An empty place to make it in, without what an interrupted call may have left there.
bool begin(place_t *place, error_t *error);
// Lets it appear, by one step that is done or not.
bool publish(place_t *place, plugin_string_t origin, error_t *error);
