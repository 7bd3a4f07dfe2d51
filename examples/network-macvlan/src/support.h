// Texts, errors and options, as the interfaces have them.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include "plugin.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
// The two arguments that "%.*s" wants for a text.
#define SHOWN(text) (int)(text).len, (const char *)(text).ptr

// A text for an argument of the host's functions: not a copy.
plugin_string_t text(const char *zero_terminated);
// A text of its own, written as printf does.
plugin_string_t owned(const char *format, ...) __attribute__((format(printf, 1, 2)));
// A text of its own with the same bytes.
plugin_string_t copy(plugin_string_t text);
bool is(plugin_string_t text, const char *other);
bool same(plugin_string_t one, plugin_string_t other);
bool begins_with(plugin_string_t text, plugin_string_t beginning);
// Whether it is UTF-8, which is all that a host takes as a text.
bool is_utf8(plugin_string_t text);

// Memory that is there, or the call ends: the host tells that it crashed.
void *room(size_t bytes);

// An error as the host wants it: a code, and one sentence in lower case that names the object. Always false.
bool refuse(hutch_host_types_error_t *error, const char *code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// The value of an option; NULL where it is not set.
const plugin_string_t *option(const hutch_host_types_options_t *config, const char *key);
// Refuses options that nobody knows. `what` says whose they are.
bool check_keys(const char *what, const hutch_host_types_options_t *config, const char *const *known, size_t count,
                hutch_host_types_error_t *error);
