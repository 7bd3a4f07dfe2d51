#!/usr/bin/env python3
"""Builds the plugin: the component from app.py, with plugin.toml in it as the custom section that a host looks for."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUTPUT = HERE / "image-index.wasm"


def leb128(number: int) -> bytes:
    """An unsigned number as WebAssembly's binary format writes it (section 5.2.2 of its specification)."""
    out = bytearray()
    while True:
        byte, number = number & 0x7F, number >> 7
        out.append(byte | (0x80 if number else 0))
        if not number:
            return bytes(out)


def section(name: str, content: bytes) -> bytes:
    """A custom section: its id, its length, its name with a length, and its content."""
    body = leb128(len(name)) + name.encode() + content
    return b"\0" + leb128(len(body)) + body


def main() -> int:
    command = ["componentize-py", "-d", "wit", "-w", "plugin", "componentize", "app", "-o", str(OUTPUT)]
    done = subprocess.run(command, cwd=HERE)
    if done.returncode:
        return done.returncode
    with OUTPUT.open("ab") as component:
        component.write(section("hutch:manifest", (HERE / "plugin.toml").read_bytes()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
