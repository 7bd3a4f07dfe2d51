// Storage pools of plain directories.
//
//     pool.json              whose pool it is
//     volumes/KIND/NAME/     a volume: `origin` says what it was made from, `tree` is its content
//     making/KIND/NAME/      a volume that is being made
//
// The host may die at any moment, and the same call comes again. So a volume appears by one step that is done or not: a rename out
// of `making`.

import * as fs from "hutch:host/fs@0.1.0";
import { checkKeys, refuse, thrown } from "./errors.js";

const DRIVER = "@name@";
// The version of this layout. A pool of a newer one is refused.
const VERSION = 1;
// The kinds of volumes, which are also the names of their directories.
const KINDS = ["container", "virtual-machine", "image", "custom"];
const KEYS = new Set(["source", "volatile.initial_source"]);
const PAGE = 1000;

const encode = (text) => new TextEncoder().encode(text);
const decode = (bytes) => new TextDecoder().decode(bytes);

function at(poolRef, ...parts) {
  return { root: poolRef.root, path: parts.join("/") };
}

function below(place, name) {
  return { root: place.root, path: `${place.path}/${name}` };
}

/** Where a volume lies, and where it is made. */
class Place {
  constructor(poolRef, ref, name = ref.name) {
    const shown = JSON.stringify(name);
    if (["", ".", ".."].includes(name) || /[/\u0000-\u001f\u007f]/.test(name) || encode(name).length > 255) {
      throw refuse("invalid", `${shown} can't be the name of a volume`);
    }
    if (!KINDS.includes(ref.kind) || ref.content !== "filesystem") {
      throw refuse(
        "unsupported",
        `a pool of directories has no place for the ${ref.content} volume ${shown} of the kind ${ref.kind}`,
      );
    }
    this.what = `the ${ref.kind} volume ${shown}`;
    this.home = at(poolRef, "volumes", ref.kind, name);
    this.making = at(poolRef, "making", ref.kind, name);
    this.tree = below(this.home, "tree");
    this.newTree = below(this.making, "tree");
  }

  /** What the volume was made from; nothing where there is no volume. */
  origin() {
    const data = fs.readFile(below(this.home, "origin"));
    return data && decode(data);
  }

  require() {
    if (this.origin() === undefined) {
      throw refuse("not-found", `${this.what} is not there`);
    }
  }

  /** Whether it was made from `origin` already. From anything else it may not be made again. */
  isMade(origin) {
    const found = this.origin();
    if (found !== undefined && found !== origin) {
      throw refuse("already-exists", `${this.what} is there already, made from ${found}`);
    }
    return found !== undefined;
  }

  /** An empty place to make it in, without what an interrupted call may have left there. */
  begin() {
    fs.discard(this.making);
    fs.makeDir(this.making, 0o700);
  }

  publish(origin) {
    fs.writeFile(below(this.making, "origin"), encode(origin), 0o600);
    fs.rename(this.making, this.home);
  }
}

/** All entries of a directory; none where there is no directory. */
function names(directory) {
  const found = [];
  for (;;) {
    let page;
    try {
      page = fs.listDir(directory, found.at(-1), PAGE);
    } catch (error) {
      if (thrown(error).code === "not-found" && !found.length) {
        return found;
      }
      throw error;
    }
    found.push(...page.map((entry) => entry.name));
    if (page.length < PAGE) {
      return found;
    }
  }
}

/** What a pool's note says; `undefined` where it is none. */
function note(data) {
  try {
    const { version, driver } = JSON.parse(decode(data));
    return Number.isInteger(version) ? { version, driver } : undefined;
  } catch {
    return undefined;
  }
}

export const pool = {
  validate(ref, _current) {
    checkKeys(`pool ${ref.name}`, ref.config, KEYS);
    return ref.config;
  },

  create(ref) {
    for (const kind of KINDS) {
      fs.makeDir(at(ref, "volumes", kind), 0o700);
      fs.makeDir(at(ref, "making", kind), 0o700);
    }
    const text = JSON.stringify({ version: VERSION, driver: DRIVER });
    fs.writeFile(at(ref, "pool.json"), encode(text), 0o600);
  },

  open(ref) {
    const data = fs.readFile(at(ref, "pool.json"));
    if (!data) {
      throw refuse("not-found", `there is no pool in the directory of pool ${ref.name}`);
    }
    const found = note(data);
    if (!found) {
      throw refuse("io", `the note of pool ${ref.name} is damaged`);
    }
    if (found.driver !== DRIVER) {
      throw refuse("invalid", `pool ${ref.name} belongs to the driver ${JSON.stringify(found.driver)}`);
    }
    if (found.version > VERSION) {
      throw refuse("unsupported", `pool ${ref.name} has the format ${found.version}, and this driver knows ${VERSION}`);
    }
  },

  delete(ref) {
    for (const name of ["volumes", "making", "pool.json"]) {
      fs.discard(at(ref, name));
    }
  },

  space(ref) {
    return fs.space(ref.root);
  },

  reconcile(ref, valid) {
    const removed = [];
    const stays = new Set(valid.map(({ kind, name }) => `volumes/${kind}/${name}`));
    for (const where of ["making", "volumes"]) {
      for (const kind of KINDS) {
        for (const name of names(at(ref, where, kind))) {
          const path = `${where}/${kind}/${name}`;
          if (!stays.has(path)) {
            fs.discard(at(ref, path));
            removed.push(path);
          }
        }
      }
    }
    return removed;
  },
};

export const volume = {
  create(poolRef, ref) {
    const place = new Place(poolRef, ref);
    if (!place.isMade("nothing")) {
      place.begin();
      fs.makeDir(place.newTree, 0o755);
      place.publish("nothing");
    }
  },

  beginFill(poolRef, ref, _plain) {
    const place = new Place(poolRef, ref);
    if (place.origin() !== undefined) {
      throw refuse("already-exists", `${place.what} is there already`);
    }
    place.begin();
    fs.makeDir(place.newTree, 0o755);
    return place.newTree;
  },

  endFill(poolRef, ref, _plain) {
    const place = new Place(poolRef, ref);
    if (place.isMade("outside")) {
      return;
    }
    if (!fs.stat(place.newTree)) {
      throw refuse("not-found", `${place.what} is not being filled`);
    }
    place.publish("outside");
  },

  createFromImage(poolRef, image, ref, _plain) {
    const place = new Place(poolRef, ref);
    const source = new Place(poolRef, image);
    const origin = `image ${image.name}`;
    if (place.isMade(origin)) {
      return;
    }
    source.require();
    place.begin();
    fs.copyTree(source.tree, place.newTree);
    place.publish(origin);
  },

  delete(poolRef, ref) {
    const place = new Place(poolRef, ref);
    fs.discard(place.home);
    fs.discard(place.making);
  },

  rename(poolRef, ref, newName) {
    const old = new Place(poolRef, ref);
    const fresh = new Place(poolRef, ref, newName);
    const there = old.origin() !== undefined;
    const taken = fresh.origin() !== undefined;
    if (!there && !taken) {
      throw refuse("not-found", `${old.what} is not there`);
    }
    if (there && taken && ref.name !== newName) {
      throw refuse("already-exists", `${fresh.what} is there already`);
    }
    // Otherwise it was renamed by a call whose answer was lost, or has the name.
    if (there && !taken) {
      fs.rename(old.home, fresh.home);
    }
  },

  mount(poolRef, ref) {
    const place = new Place(poolRef, ref);
    place.require();
    return { kind: "bind", layers: [place.tree], upper: undefined, work: undefined, options: [] };
  },

  usage(poolRef, ref) {
    const place = new Place(poolRef, ref);
    place.require();
    return fs.usage(place.tree);
  },
};
