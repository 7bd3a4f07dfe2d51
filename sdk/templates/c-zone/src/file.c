// A file that is too large for one call of the host's.

#include <string.h>

#include "zone.h"

// Bytes that are kept before they are written, of which the host takes 1 MiB in one call.
#define PART (512u << 10)

file_t begin(tree_path_t place) {
  return (file_t){.place = place, .bytes = room(PART)};
}

bool flush(file_t *file, error_t *error) {
  plugin_list_u8_t data = {file->bytes, file->length};
  // What everybody may learn from a name server, and what the server's account has to read.
  if (!hutch_host_fs_write_part(&file->place, file->written, &data, 0644, error)) {
    return false;
  }
  file->written += file->length;
  file->length = 0;
  return true;
}

bool put(file_t *file, plugin_string_t text, error_t *error) {
  while (text.len) {
    size_t free = PART - file->length, part = text.len < free ? text.len : free;
    memcpy(file->bytes + file->length, text.ptr, part);
    file->length += part;
    text = (plugin_string_t){text.ptr + part, text.len - part};
    if (file->length == PART && !flush(file, error)) {
      return false;
    }
  }
  return true;
}
