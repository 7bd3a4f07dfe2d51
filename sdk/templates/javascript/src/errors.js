/** An error as the host wants it: a code, and one sentence in lower case that names the object. It is thrown. */
export function refuse(code, message) {
  return { code, message, retryable: false, details: [] };
}

/** What was thrown, as an error of the host's: those of its own functions carry it. */
export function thrown(error) {
  return error?.payload ?? error;
}

/** Refuses options that nobody knows. */
export function checkKeys(what, config, known) {
  for (const [key] of config) {
    if (!known.has(key)) {
      throw refuse("invalid", `invalid option for ${what}: ${JSON.stringify(key)}`);
    }
  }
}
