// Storage pools of plain directories.
//
//     pool                   whose pool it is
//     volumes/KIND/NAME/     a volume: `origin` says what it was made from, `tree` is its content
//     making/KIND/NAME/      a volume that is being made
//
// The host may die at any moment, and the same call comes again. So a volume appears by one step that is done or not: a rename out
// of `making`. This file has the pool, volume.c the volumes, place.c where they lie.

#include <string.h>

#include "place.h"

#define DRIVER "@name@"
// The version of this layout, one digit. A pool of a newer one is refused.
#define VERSION '1'
#define PAGE 1000

static const char *const KEYS[] = {"source", "volatile.initial_source"};

bool exports_hutch_storage_pool_validate(pool_t *pool, options_t *maybe_current, options_t *ret, error_t *error) {
  (void)maybe_current;
  // What a function is given is its own: it may be answered with.
  *ret = pool->config;
  return check_keys("a pool", &pool->config, KEYS, COUNT(KEYS), error);
}

bool exports_hutch_storage_pool_create(pool_t *pool, error_t *error) {
  for (size_t i = 0; i < KINDS; i++) {
    tree_path_t volumes = at(pool, "volumes/%s", KIND[i]), making = at(pool, "making/%s", KIND[i]);
    // An error of the host's goes on to the caller as it is.
    if (!hutch_host_fs_make_dir(&volumes, 0700, error) || !hutch_host_fs_make_dir(&making, 0700, error)) {
      return false;
    }
  }
  plugin_string_t note = owned("%c " DRIVER, VERSION);
  plugin_list_u8_t data = {note.ptr, note.len};
  tree_path_t place = at(pool, "pool");
  return hutch_host_fs_write_file(&place, &data, 0600, error);
}

bool exports_hutch_storage_pool_open(pool_t *pool, error_t *error) {
  tree_path_t place = at(pool, "pool");
  plugin_option_list_u8_t data;
  if (!hutch_host_fs_read_file(&place, &data, error)) {
    return false;
  }
  if (!data.is_some) {
    return refuse(error, "not-found", "there is no pool in the directory of pool %.*s", SHOWN(pool->name));
  }
  plugin_string_t note = {data.val.ptr, data.val.len};
  if (note.len < 3 || note.ptr[0] < '1' || note.ptr[0] > '9' || note.ptr[1] != ' ') {
    return refuse(error, "io", "the note of pool %.*s is damaged", SHOWN(pool->name));
  }
  plugin_string_t driver = {note.ptr + 2, note.len - 2};
  if (!is(driver, DRIVER)) {
    return refuse(error, "invalid", "pool %.*s belongs to the driver %.*s", SHOWN(pool->name), SHOWN(driver));
  }
  if (note.ptr[0] > VERSION) {
    return refuse(error, "unsupported", "pool %.*s has the format %c, and this driver knows %c", SHOWN(pool->name),
                  note.ptr[0], VERSION);
  }
  return true;
}

bool exports_hutch_storage_pool_delete(pool_t *pool, error_t *error) {
  tree_path_t volumes = at(pool, "volumes"), making = at(pool, "making"), note = at(pool, "pool");
  return hutch_host_fs_discard(&volumes, error) && hutch_host_fs_discard(&making, error) &&
         hutch_host_fs_discard(&note, error);
}

bool exports_hutch_storage_pool_space(pool_t *pool, hutch_storage_types_pool_space_t *ret, error_t *error) {
  hutch_host_fs_space_info_t space;
  if (!hutch_host_fs_space(&pool->root, &space, error)) {
    return false;
  }
  *ret = (hutch_storage_types_pool_space_t){space.total_bytes, space.used_bytes, space.total_inodes, space.used_inodes};
  return true;
}

static bool stays(plugin_string_t name, const char *where, const char *kind,
                  const exports_hutch_storage_pool_list_volume_state_t *valid) {
  for (size_t i = 0; strcmp(where, "volumes") == 0 && i < valid->len; i++) {
    if (is(valid->ptr[i].kind, kind) && same(valid->ptr[i].name, name)) {
      return true;
    }
  }
  return false;
}

// Removes from one directory what does not stay, and adds it to the list. The directory is read in pages, each after the last name
// of the one before.
static bool tidy(const pool_t *pool, const char *where, const char *kind,
                 const exports_hutch_storage_pool_list_volume_state_t *valid, plugin_list_string_t *removed,
                 error_t *error) {
  tree_path_t directory = at(pool, "%s/%s", where, kind);
  plugin_string_t *after = NULL;
  hutch_host_fs_list_dir_entry_t page;
  do {
    if (!hutch_host_fs_list_dir(&directory, after, PAGE, &page, error)) {
      return !after && is(error->code, "not-found");
    }
    for (size_t i = 0; i < page.len; i++) {
      plugin_string_t name = page.ptr[i].name;
      after = &page.ptr[i].name;
      if (stays(name, where, kind, valid)) {
        continue;
      }
      tree_path_t place = at(pool, "%s/%s/%.*s", where, kind, SHOWN(name));
      if (!hutch_host_fs_discard(&place, error)) {
        return false;
      }
      plugin_string_t *list = room((removed->len + 1) * sizeof *list);
      memcpy(list, removed->ptr, removed->len * sizeof *list);
      list[removed->len++] = copy(place.path);
      removed->ptr = list;
    }
  } while (page.len == PAGE);
  return true;
}

bool exports_hutch_storage_pool_reconcile(pool_t *pool, exports_hutch_storage_pool_list_volume_state_t *valid,
                                          plugin_list_string_t *ret, error_t *error) {
  static const char *const WHERE[] = {"making", "volumes"};
  *ret = (plugin_list_string_t){room(0), 0};
  for (size_t where = 0; where < COUNT(WHERE); where++) {
    for (size_t kind = 0; kind < KINDS; kind++) {
      if (!tidy(pool, WHERE[where], KIND[kind], valid, ret, error)) {
        return false;
      }
    }
  }
  return true;
}
