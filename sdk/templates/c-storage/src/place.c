#include "place.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const KIND[KINDS] = {"container", "virtual-machine", "image", "custom"};

tree_path_t at(const pool_t *pool, const char *format, ...) {
  // A kind and a name of at most 255 bytes, with what stands around them.
  char path[320];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(path, sizeof path, format, arguments);
  va_end(arguments);
  if (length < 0 || (size_t)length >= sizeof path) {
    abort();
  }
  return (tree_path_t){pool->root, copy(text(path))};
}

static bool is_name(plugin_string_t name) {
  bool good = name.len >= 1 && name.len <= 255 && !is(name, ".") && !is(name, "..");
  for (size_t i = 0; good && i < name.len; i++) {
    good = name.ptr[i] >= ' ' && name.ptr[i] != '/' && name.ptr[i] != 0x7f;
  }
  return good;
}

bool find(const pool_t *pool, const volume_t *volume, const plugin_string_t *name, place_t *place, error_t *error) {
  place->name = name ? *name : volume->name;
  place->kind = NULL;
  if (!is_name(place->name)) {
    return refuse(error, "invalid", "\"%.*s\" can't be the name of a volume", SHOWN(place->name));
  }
  for (size_t i = 0; i < KINDS; i++) {
    if (is(volume->kind, KIND[i])) {
      place->kind = KIND[i];
    }
  }
  if (!place->kind || !is(volume->content, "filesystem")) {
    return refuse(error, "unsupported", "a pool of directories has no place for the %.*s volume %.*s of the kind %.*s",
                  SHOWN(volume->content), SHOWN(place->name), SHOWN(volume->kind));
  }
  const char *kind = place->kind;
  place->home = at(pool, "volumes/%s/%.*s", kind, SHOWN(place->name));
  place->origin = at(pool, "volumes/%s/%.*s/origin", kind, SHOWN(place->name));
  place->tree = at(pool, "volumes/%s/%.*s/tree", kind, SHOWN(place->name));
  place->making = at(pool, "making/%s/%.*s", kind, SHOWN(place->name));
  place->new_origin = at(pool, "making/%s/%.*s/origin", kind, SHOWN(place->name));
  place->new_tree = at(pool, "making/%s/%.*s/tree", kind, SHOWN(place->name));
  return true;
}

bool look(place_t *place, bool *there, plugin_string_t *origin, error_t *error) {
  plugin_option_list_u8_t data;
  if (!hutch_host_fs_read_file(&place->origin, &data, error)) {
    return false;
  }
  *there = data.is_some;
  if (data.is_some) {
    *origin = (plugin_string_t){data.val.ptr, data.val.len};
  }
  return true;
}

bool require(place_t *place, error_t *error) {
  bool there;
  plugin_string_t origin;
  if (!look(place, &there, &origin, error)) {
    return false;
  }
  return there || refuse(error, "not-found", "the %s volume %.*s is not there", place->kind, SHOWN(place->name));
}

bool is_made(place_t *place, plugin_string_t origin, bool *made, error_t *error) {
  plugin_string_t found;
  if (!look(place, made, &found, error)) {
    return false;
  }
  if (*made && !same(found, origin)) {
    return refuse(error, "already-exists", "the %s volume %.*s is there already, made from %.*s", place->kind,
                  SHOWN(place->name), SHOWN(found));
  }
  return true;
}

bool begin(place_t *place, error_t *error) {
  return hutch_host_fs_discard(&place->making, error) && hutch_host_fs_make_dir(&place->making, 0700, error);
}

bool publish(place_t *place, plugin_string_t origin, error_t *error) {
  plugin_list_u8_t data = {origin.ptr, origin.len};
  return hutch_host_fs_write_file(&place->new_origin, &data, 0600, error) &&
         hutch_host_fs_rename(&place->making, &place->home, error);
}
