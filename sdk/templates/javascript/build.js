// Builds the plugin: the component from src/driver.js, with plugin.toml in it as the custom section that a host looks for.

import { readFile, writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const OUTPUT = "@name@.wasm";

/** An unsigned number as WebAssembly's binary format writes it (section 5.2.2 of its specification). */
function leb128(number) {
  const out = [];
  do {
    const rest = number >>> 7;
    out.push((number & 0x7f) | (rest ? 0x80 : 0));
    number = rest;
  } while (number);
  return Buffer.from(out);
}

/** A custom section: its id, its length, its name with a length, and its content. */
function section(name, content) {
  const title = Buffer.from(name);
  const body = Buffer.concat([leb128(title.length), title, content]);
  return Buffer.concat([Buffer.from([0]), leb128(body.length), body]);
}

const { component } = await componentize({
  sourcePath: "src/driver.js",
  witPath: "wit",
  worldName: "plugin",
  // What a driver has no use for, and what no host of Hutch's has.
  disableFeatures: ["random", "stdio", "clocks", "http", "fetch-event"],
});
await writeFile(OUTPUT, Buffer.concat([component, section("hutch:manifest", await readFile("plugin.toml"))]));
