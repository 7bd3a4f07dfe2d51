// Zones as master files (RFC 1035 section 5) in one directory, each named as its zone, for a name server that reads them.
//
// What was published is noted in the key-value store before anything is written, so that no file is left that nobody knows of. A file
// is written beside its place and put there as a whole: a name server that looks meanwhile reads the old one.

import * as fs from "hutch:host/fs@0.1.0";
import * as kv from "hutch:host/kv@0.1.0";
import * as records from "hutch:host/records@0.1.0";
import { checkKeys, refuse } from "./errors.js";

// The place in the manifest, the key of a zone's version in the store, and what a zone's configuration may have.
const ROOT = "zones";
const KEY = "version/";
const NAMESERVERS = "dns.nameservers";
const CONTACT = "dns.contact";
const KEYS = new Set([NAMESERVERS, CONTACT]);

// Record sets of one page; bytes of a file that are kept before they are written, of which the host takes 1 MiB in one call.
const PAGE = 500;
const PART = 512 << 10;
// Seconds of SOA and NS; refresh, retry, expire and the time that a negative answer is kept. Short, because instances come and go.
const SOA_TTL = 3600;
const NS_TTL = 300;
const TIMERS = "120 60 86400 30";

const encode = (text) => new TextEncoder().encode(text);
const decode = (bytes) => new TextDecoder().decode(bytes);

function file(name) {
  return { root: ROOT, path: name };
}

/** Where a file is written first. No zone's name begins with a dot. */
function aside(name) {
  return { root: ROOT, path: `.${name}` };
}

/** A domain name (RFC 1035 section 2.3.4) without its final dot. A dot in a label may be escaped, as mailboxes have it. */
function domain(key, name) {
  const bare = name.endsWith(".") ? name.slice(0, -1) : name;
  const labels = bare.replaceAll("\\.", "").split(".");
  if (bare.length > 253 || !labels.every((label) => /^[A-Za-z0-9_-]{1,63}$/.test(label))) {
    throw refuse("invalid", `invalid value for "${key}": ${JSON.stringify(name)} is no domain name`);
  }
  return bare.toLowerCase();
}

/** The mailbox of whoever is responsible, as the SOA record has it: `me\.too.example.org` (RFC 1035 section 8). */
function mailbox(ref, address) {
  if (!address) {
    const usual = `hostmaster.${ref.name}`;
    // No mailbox can be in a zone with so long a name.
    return usual.length > 253 ? "hostmaster.localhost" : usual;
  }
  const at = address.indexOf("@");
  if (at < 0) {
    return domain(CONTACT, address);
  }
  // The host by itself, too: what is whole with a final dot would be so without a host.
  const host = domain(CONTACT, address.slice(at + 1));
  return domain(CONTACT, `${address.slice(0, at).replaceAll(".", "\\.")}.${host}`);
}

/** What stands at the apex for the zone itself: the name servers, and the mailbox. */
function apex(ref) {
  const config = new Map(ref.config);
  // A server in the zone itself would need an address there, or BIND does not load the zone.
  const listed = (config.get(NAMESERVERS) || "localhost").split(",");
  const servers = listed.map((server) => domain(NAMESERVERS, server.trim()));
  return { servers, contact: mailbox(ref, config.get(CONTACT)) };
}

/** The zone's master file, line by line. */
function* lines(ref, version) {
  const { servers, contact } = apex(ref);
  yield `; version ${version}\n$ORIGIN ${ref.name}.\n`;
  yield `@ ${SOA_TTL} IN SOA ${servers[0]}. ${contact}. ${version & 0xffffffffn} ${TIMERS}\n`;
  for (const server of servers) {
    yield `@ ${NS_TTL} IN NS ${server}.\n`;
  }
  let after;
  for (;;) {
    const page = records.page(version, after, PAGE);
    if (!page.length) {
      return;
    }
    for (const { name, ttl, kind, values } of page) {
      for (const value of values) {
        yield `${name} ${ttl} IN ${kind} ${value}\n`;
      }
    }
    const last = page.at(-1);
    after = { name: last.name, kind: last.kind };
  }
}

function write(ref, version) {
  let written = 0n;
  let kept = [];
  let length = 0;
  const flush = () => {
    fs.writePart(aside(ref.name), written, encode(kept.join("")), 0o644);
    written += BigInt(length);
    kept = [];
    length = 0;
  };
  for (const line of lines(ref, version)) {
    kept.push(line);
    // The host lets nothing but ASCII into a zone, so that a character is a byte.
    length += line.length;
    if (length > PART) {
      flush();
    }
  }
  flush();
  fs.replaceFile(aside(ref.name), file(ref.name));
}

function remove(name) {
  fs.discard(file(name));
  fs.discard(aside(name));
  kv.delete(KEY + name);
}

export const zone = {
  validate(ref, _current) {
    checkKeys(`zone ${ref.name}`, ref.config, KEYS);
    apex(ref);
    return ref.config;
  },

  publish(ref, version) {
    const known = kv.get(KEY + ref.name);
    if (known && version < BigInt(decode(known))) {
      return;
    }
    kv.set(KEY + ref.name, encode(`${version}`));
    write(ref, version);
  },

  delete(ref) {
    remove(ref.name);
  },

  reconcile(valid) {
    const names = new Set(valid.map((ref) => ref.name));
    const removed = [];
    let after;
    for (;;) {
      const keys = kv.keys(KEY, after, 100);
      if (!keys.length) {
        return removed;
      }
      for (const name of keys.map((key) => key.slice(KEY.length))) {
        if (!names.has(name)) {
          remove(name);
          removed.push(`the zone ${name}`);
        }
      }
      after = keys.at(-1);
    }
  },
};
