// The volumes of a pool.

#include "place.h"

bool exports_hutch_storage_volume_create(pool_t *pool, volume_t *volume, error_t *error) {
  place_t place;
  bool made;
  if (!find(pool, volume, NULL, &place, error) || !is_made(&place, text("nothing"), &made, error)) {
    return false;
  }
  return made || (begin(&place, error) && hutch_host_fs_make_dir(&place.new_tree, 0755, error) &&
                  publish(&place, text("nothing"), error));
}

bool exports_hutch_storage_volume_begin_fill(pool_t *pool, volume_t *volume, bool plain, tree_path_t *ret,
                                             error_t *error) {
  // Every volume of this driver's is.
  (void)plain;
  place_t place;
  bool there;
  plugin_string_t origin;
  if (!find(pool, volume, NULL, &place, error) || !look(&place, &there, &origin, error)) {
    return false;
  }
  if (there) {
    return refuse(error, "already-exists", "the %s volume %.*s is there already", place.kind, SHOWN(place.name));
  }
  // The root came with the call and the path is of this function's making, so that each is freed once.
  *ret = place.new_tree;
  return begin(&place, error) && hutch_host_fs_make_dir(&place.new_tree, 0755, error);
}

bool exports_hutch_storage_volume_end_fill(pool_t *pool, volume_t *volume, bool plain, error_t *error) {
  (void)plain;
  place_t place;
  bool made;
  hutch_host_fs_option_file_info_t found;
  if (!find(pool, volume, NULL, &place, error) || !is_made(&place, text("outside"), &made, error)) {
    return false;
  }
  if (made) {
    return true;
  }
  if (!hutch_host_fs_stat(&place.new_tree, &found, error)) {
    return false;
  }
  if (!found.is_some) {
    return refuse(error, "not-found", "the %s volume %.*s is not being filled", place.kind, SHOWN(place.name));
  }
  return publish(&place, text("outside"), error);
}

bool exports_hutch_storage_volume_create_from_image(pool_t *pool, volume_t *image, volume_t *volume, bool plain,
                                                    error_t *error) {
  (void)plain;
  place_t place, source;
  bool made;
  plugin_string_t origin = owned("image %.*s", SHOWN(image->name));
  if (!find(pool, volume, NULL, &place, error) || !find(pool, image, NULL, &source, error) ||
      !is_made(&place, origin, &made, error)) {
    return false;
  }
  return made || (require(&source, error) && begin(&place, error) &&
                  hutch_host_fs_copy_tree(&source.tree, &place.new_tree, error) && publish(&place, origin, error));
}

bool exports_hutch_storage_volume_delete(pool_t *pool, volume_t *volume, error_t *error) {
  place_t place;
  return find(pool, volume, NULL, &place, error) && hutch_host_fs_discard(&place.home, error) &&
         hutch_host_fs_discard(&place.making, error);
}

bool exports_hutch_storage_volume_rename(pool_t *pool, volume_t *volume, plugin_string_t *new_name, error_t *error) {
  place_t old, fresh;
  bool there, taken;
  plugin_string_t origin;
  if (!find(pool, volume, NULL, &old, error) || !find(pool, volume, new_name, &fresh, error) ||
      !look(&old, &there, &origin, error) || !look(&fresh, &taken, &origin, error)) {
    return false;
  }
  if (!there && !taken) {
    return refuse(error, "not-found", "the %s volume %.*s is not there", old.kind, SHOWN(old.name));
  }
  if (there && taken && !same(old.name, fresh.name)) {
    return refuse(error, "already-exists", "the %s volume %.*s is there already", fresh.kind, SHOWN(fresh.name));
  }
  // Otherwise it was renamed by a call whose answer was lost, or has the name.
  return taken || hutch_host_fs_rename(&old.home, &fresh.home, error);
}

bool exports_hutch_storage_volume_mount(pool_t *pool, volume_t *volume, hutch_host_types_mount_plan_t *ret,
                                        error_t *error) {
  place_t place;
  if (!find(pool, volume, NULL, &place, error) || !require(&place, error)) {
    return false;
  }
  tree_path_t *layers = room(sizeof *layers);
  *layers = place.tree;
  *ret = (hutch_host_types_mount_plan_t){.kind = copy(text("bind")), .layers = {layers, 1}};
  return true;
}

bool exports_hutch_storage_volume_usage(pool_t *pool, volume_t *volume, plugin_option_u64_t *ret,
                                        error_t *error) {
  place_t place;
  return find(pool, volume, NULL, &place, error) && require(&place, error) &&
         hutch_host_fs_usage(&place.tree, ret, error);
}
