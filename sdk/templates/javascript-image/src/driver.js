// Images from servers that have a file index.json:
//
//     {"images": [{"name": "tiny", "architecture": "x86_64", "file": "tiny.tar.gz", "sha256": "…", "size": 123,
//                  "description": "…"}]}
//
// A file is a whole image: metadata.yaml and rootfs/ in one archive. The host fetches it; what is here reads the index only.

import { get } from "hutch:host/http@0.1.0";
import { checkKeys, refuse } from "./errors.js";

// The largest index that is read, in bytes.
const MAX_INDEX = 4n << 20n;

function text(entry, key) {
  const value = entry[key];
  return typeof value === "string" ? value : "";
}

/** The entries of the server's index. What is not one is the server's fault, and is told as that. */
function index(server) {
  const address = `${server}/index.json`;
  const response = get(address, [], MAX_INDEX);
  if (response.status === 404) {
    throw refuse("not-found", `${server} has no index.json`);
  }
  if (response.status !== 200) {
    throw refuse("unavailable", `${address} is answered with the status ${response.status}`);
  }
  let images;
  try {
    images = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(response.body))?.images;
  } catch {
    // Said below, as what is an index of something else.
  }
  if (!Array.isArray(images)) {
    throw refuse("io", `${address} is not an index of images`);
  }
  return images.filter((entry) => entry !== null && typeof entry === "object");
}

function image(server, entry) {
  const size = Number.isSafeInteger(entry.size) && entry.size >= 0 ? BigInt(entry.size) : undefined;
  const properties = ["description", "os", "release"].map((key) => [key, text(entry, key)]);
  return {
    // With one file, its checksum is the image's fingerprint.
    fingerprint: text(entry, "sha256"),
    aliases: [text(entry, "name")],
    architecture: text(entry, "architecture"),
    kind: "container",
    properties: properties.filter(([, value]) => value),
    created: 0n,
    expires: 0n,
    files: [{ role: "unified", url: `${server}/${text(entry, "file")}`, sha256: text(entry, "sha256"), size }],
    buildKey: undefined,
  };
}

/** The images of the architecture and kind that were asked for; entries that lack something are left out. */
function images(request) {
  checkKeys("images of an index", request.options, new Set());
  if (!request.server) {
    throw refuse("invalid", "a server is needed: its address stands before the image's name");
  }
  if (request.kind !== "container") {
    return [];
  }
  const fitting = index(request.server).filter(
    (entry) =>
      text(entry, "architecture") === request.architecture &&
      text(entry, "name") &&
      text(entry, "file") &&
      /^[0-9a-f]{64}$/.test(text(entry, "sha256")),
  );
  return fitting.map((entry) => image(request.server, entry));
}

export const source = {
  resolve(request) {
    const found = images(request).find(({ aliases, fingerprint }) =>
      [aliases[0], fingerprint].includes(request.name),
    );
    if (!found) {
      throw refuse("not-found", `${request.server} has no image ${JSON.stringify(request.name)} for ${request.architecture}`);
    }
    return found;
  },

  list(request) {
    return images(request).filter(
      ({ aliases, fingerprint }) => aliases[0].startsWith(request.name) || fingerprint.startsWith(request.name),
    );
  },
};
