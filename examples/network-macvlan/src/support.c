#include "support.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *room(size_t bytes) {
  void *place = malloc(bytes ? bytes : 1);
  if (!place) {
    abort();
  }
  return place;
}

plugin_string_t text(const char *zero_terminated) {
  return (plugin_string_t){(uint8_t *)zero_terminated, strlen(zero_terminated)};
}

static plugin_string_t written(const char *format, va_list arguments) {
  va_list again;
  va_copy(again, arguments);
  int length = vsnprintf(NULL, 0, format, arguments);
  if (length < 0) {
    abort();
  }
  char *place = room((size_t)length + 1);
  vsnprintf(place, (size_t)length + 1, format, again);
  va_end(again);
  return (plugin_string_t){(uint8_t *)place, (size_t)length};
}

plugin_string_t owned(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  plugin_string_t made = written(format, arguments);
  va_end(arguments);
  return made;
}

plugin_string_t copy(plugin_string_t text) {
  uint8_t *place = room(text.len);
  memcpy(place, text.ptr, text.len);
  return (plugin_string_t){place, text.len};
}

bool same(plugin_string_t one, plugin_string_t other) {
  return one.len == other.len && memcmp(one.ptr, other.ptr, one.len) == 0;
}

bool is(plugin_string_t one, const char *other) {
  return same(one, text(other));
}

bool begins_with(plugin_string_t text, plugin_string_t beginning) {
  return text.len >= beginning.len && memcmp(text.ptr, beginning.ptr, beginning.len) == 0;
}

// How many bytes after `first` belong to the same character (RFC 3629); -1 for what begins none. The second is at least `least` and
// at most `most`, which keeps out characters that could be written shorter, surrogates, and what is beyond U+10FFFF.
static int following(uint8_t first, uint8_t *least, uint8_t *most) {
  *least = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  *most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  if (first < 0x80) {
    return 0;
  }
  return first < 0xc2 ? -1 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : first < 0xf5 ? 3 : -1;
}

bool is_utf8(plugin_string_t text) {
  for (size_t i = 0; i < text.len; i++) {
    uint8_t least, most;
    int more = following(text.ptr[i], &least, &most);
    if (more < 0 || text.len - i <= (size_t)more) {
      return false;
    }
    for (; more; more--) {
      i++;
      if (text.ptr[i] < least || text.ptr[i] > most) {
        return false;
      }
      least = 0x80;
      most = 0xbf;
    }
  }
  return true;
}

bool refuse(hutch_host_types_error_t *error, const char *code, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  memset(error, 0, sizeof *error);
  error->code = copy(text(code));
  error->message = written(format, arguments);
  va_end(arguments);
  // It may quote what is no text, and the host would take that for a crash.
  for (size_t i = 0; !is_utf8(error->message) && i < error->message.len; i++) {
    if (error->message.ptr[i] >= 0x80) {
      error->message.ptr[i] = '?';
    }
  }
  return false;
}

const plugin_string_t *option(const hutch_host_types_options_t *config, const char *key) {
  for (size_t i = 0; i < config->len; i++) {
    if (is(config->ptr[i].f0, key)) {
      return &config->ptr[i].f1;
    }
  }
  return NULL;
}

static bool is_known(plugin_string_t key, const char *const *known, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (is(key, known[i])) {
      return true;
    }
  }
  return false;
}

bool check_keys(const char *what, const hutch_host_types_options_t *config, const char *const *known, size_t count,
                hutch_host_types_error_t *error) {
  for (size_t i = 0; i < config->len; i++) {
    plugin_string_t key = config->ptr[i].f0;
    if (!is_known(key, known, count)) {
      return refuse(error, "invalid", "invalid option for %s: \"%.*s\"", what, SHOWN(key));
    }
  }
  return true;
}
