// Images from servers that have a file index.txt, with an image on each line:
//
//     tiny x86_64 6f77…e4bd 2560 tiny-x86_64.tar nothing but this
//
// which is its name, its architecture, the SHA-256 of its file, the size of that in bytes, its path on the server, and a description
// to the end of the line. Lines that begin with # say nothing. A file is a whole image: metadata.yaml and rootfs/ in one archive.
// The host fetches it; what is here reads the index only.

#include <string.h>

#include "support.h"

// The largest index that is read, in bytes.
#define MAX_INDEX (4u << 20)

typedef hutch_host_types_error_t error_t;
typedef hutch_image_types_request_t request_t;
typedef hutch_image_types_image_t image_t;

// An image in the index.
typedef struct {
  plugin_string_t name, architecture, sha256, file, description;
  uint64_t size;
} entry_t;

// Takes what stands before the next `end` from the beginning of `rest`: all of it where there is none.
static plugin_string_t take(plugin_string_t *rest, char end) {
  uint8_t *found = rest->len ? memchr(rest->ptr, end, rest->len) : NULL;
  plugin_string_t taken = {rest->ptr, found ? (size_t)(found - rest->ptr) : rest->len};
  size_t used = taken.len + (found ? 1 : 0);
  *rest = (plugin_string_t){rest->ptr + used, rest->len - used};
  return taken;
}

static bool is_digest(plugin_string_t text) {
  bool good = text.len == 64;
  for (size_t i = 0; good && i < text.len; i++) {
    good = (text.ptr[i] >= '0' && text.ptr[i] <= '9') || (text.ptr[i] >= 'a' && text.ptr[i] <= 'f');
  }
  return good;
}

static bool read_size(plugin_string_t text, uint64_t *size) {
  // 18 digits fit into 64 bits whatever they are.
  bool good = text.len >= 1 && text.len <= 18;
  *size = 0;
  for (size_t i = 0; good && i < text.len; i++) {
    good = text.ptr[i] >= '0' && text.ptr[i] <= '9';
    *size = *size * 10 + (uint64_t)(text.ptr[i] - '0');
  }
  return good;
}

static bool is_comment(plugin_string_t line) {
  return line.len == 0 || line.ptr[0] == '#';
}

// Reads a line; false for one that is no image.
static bool read_line(plugin_string_t line, entry_t *entry) {
  entry->name = take(&line, ' ');
  entry->architecture = take(&line, ' ');
  entry->sha256 = take(&line, ' ');
  bool sized = read_size(take(&line, ' '), &entry->size);
  entry->file = take(&line, ' ');
  entry->description = line;
  return sized && entry->name.len && entry->file.len && is_digest(entry->sha256);
}

// Whether it is UTF-8 and has an image on each line, at least one line.
static bool is_index(plugin_string_t index) {
  entry_t entry;
  if (index.len == 0 || !is_utf8(index)) {
    return false;
  }
  while (index.len) {
    plugin_string_t line = take(&index, '\n');
    if (!is_comment(line) && !read_line(line, &entry)) {
      return false;
    }
  }
  return true;
}

// Fetches the index of the server. What is not one is the server's fault, and is told as that.
static bool fetch(request_t *request, plugin_string_t *index, error_t *error) {
  if (!check_keys("an image of an index", &request->options, NULL, 0, error)) {
    return false;
  }
  if (request->server.len == 0) {
    return refuse(error, "invalid", "a server is needed: its address stands before the image's name");
  }
  *index = (plugin_string_t){NULL, 0};
  if (!is(request->kind, "container")) {
    return true;
  }
  plugin_string_t address = owned("%.*s/index.txt", SHOWN(request->server));
  plugin_list_tuple2_string_string_t headers = {NULL, 0};
  uint64_t limit = MAX_INDEX;
  hutch_host_http_response_t response;
  // An error of the host's goes on to the caller as it is.
  if (!hutch_host_http_get(&address, &headers, &limit, &response, error)) {
    return false;
  }
  if (response.status == 404) {
    return refuse(error, "not-found", "%.*s has no index.txt", SHOWN(request->server));
  }
  if (response.status != 200) {
    return refuse(error, "unavailable", "%.*s is answered with the status %d", SHOWN(address), response.status);
  }
  *index = (plugin_string_t){response.body.ptr, response.body.len};
  return is_index(*index) || refuse(error, "io", "%.*s is not an index of images", SHOWN(address));
}

// The next image of the architecture that was asked for; false at the end.
static bool next(const request_t *request, plugin_string_t *index, entry_t *entry) {
  while (index->len) {
    plugin_string_t line = take(index, '\n');
    if (!is_comment(line) && read_line(line, entry) && same(entry->architecture, request->architecture)) {
      return true;
    }
  }
  return false;
}

static image_t answer(const request_t *request, const entry_t *entry) {
  image_t image = {0};
  // With one file, its checksum is the image's fingerprint.
  image.fingerprint = copy(entry->sha256);
  image.aliases = (plugin_list_string_t){room(sizeof(plugin_string_t)), 1};
  image.aliases.ptr[0] = copy(entry->name);
  image.architecture = copy(entry->architecture);
  image.kind = copy(text("container"));
  if (entry->description.len) {
    image.properties = (hutch_host_types_options_t){room(sizeof *image.properties.ptr), 1};
    image.properties.ptr[0].f0 = copy(text("description"));
    image.properties.ptr[0].f1 = copy(entry->description);
  }
  image.files.ptr = room(sizeof *image.files.ptr);
  image.files.len = 1;
  image.files.ptr[0] = (hutch_image_types_image_file_t){
      .role = copy(text("unified")),
      .url = owned("%.*s/%.*s", SHOWN(request->server), SHOWN(entry->file)),
      .sha256 = copy(entry->sha256),
      .size = {true, entry->size},
  };
  return image;
}

bool exports_hutch_image_source_resolve(request_t *request, image_t *ret, error_t *error) {
  plugin_string_t index;
  entry_t entry;
  if (!fetch(request, &index, error)) {
    return false;
  }
  while (next(request, &index, &entry)) {
    if (same(entry.name, request->name) || same(entry.sha256, request->name)) {
      *ret = answer(request, &entry);
      return true;
    }
  }
  return refuse(error, "not-found", "%.*s has no image \"%.*s\" for %.*s", SHOWN(request->server),
                SHOWN(request->name), SHOWN(request->architecture));
}

bool exports_hutch_image_source_list(request_t *request, exports_hutch_image_source_list_image_t *ret,
                                     error_t *error) {
  plugin_string_t index;
  entry_t entry;
  if (!fetch(request, &index, error)) {
    return false;
  }
  size_t most = 0;
  for (size_t i = 0; i < index.len; i++) {
    most += index.ptr[i] == '\n';
  }
  // The last line may have no end.
  *ret = (exports_hutch_image_source_list_image_t){room((most + 1) * sizeof *ret->ptr), 0};
  while (next(request, &index, &entry)) {
    if (begins_with(entry.name, request->name) || begins_with(entry.sha256, request->name)) {
      ret->ptr[ret->len++] = answer(request, &entry);
    }
  }
  return true;
}
