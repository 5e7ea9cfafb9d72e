"""Compiles a CUDA library's PTX ahead of time: each of its fat binaries keeps one image, machine code for one GPU, made of the PTX that
the library has for it. Drivers that are older than the library's compiler cannot compile that PTX, and the images of other GPUs are what
makes such libraries large.

    python3 compile_fatbins.py LIBRARY OUT --tools FOLDER --cache FOLDER [--sm 90] [--jobs N] [--leave REGEX]

FOLDER of tools has ptxas, fatbinary and cuobjdump; that of the cache keeps what is compiled. Where a kernel's name matches REGEX its fat
binary keeps the PTX instead. OUT is as long as LIBRARY: what is left of a fat binary is zeros, which compress to nothing."""

import argparse
import hashlib
import os
import re
import struct
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor

MAGIC = 0xBA55ED50
HEADER = struct.Struct("<IHHQ")  # magic, version, bytes of this header, bytes behind it
ENTRY = struct.Struct("<HHIQ")  # kind, version, bytes of this header, bytes behind it
PTX = 1
ARCHITECTURE_AT = 28


def fat_section(library):
    """Begin and size of the section .nv_fatbin."""
    said = subprocess.run(
        ["readelf", "--section-headers", "--wide", library],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for line in said.splitlines():
        fields = line.replace("[", " ").replace("]", " ").split()
        if len(fields) > 5 and fields[1] == ".nv_fatbin":
            return int(fields[4], 16), int(fields[5], 16)
    raise SystemExit(f"{library} has no fat binaries")


def fat_binaries(data, begin, size):
    """Begin and end of each, and of its PTX images (architecture, begin, end)."""
    at = begin
    while at + HEADER.size <= begin + size:
        magic, _, head, body = HEADER.unpack_from(data, at)
        if magic != MAGIC:
            at += 8
            continue
        end = at + head + body
        entry, images = at + head, []
        while entry < end:
            kind, _, entry_head, entry_body = ENTRY.unpack_from(data, entry)
            if kind == PTX:
                architecture = struct.unpack_from("<I", data, entry + ARCHITECTURE_AT)[0]
                images.append((architecture, entry, entry + entry_head + entry_body))
            entry += entry_head + entry_body
        yield at, end, images
        at = end


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("library")
    parser.add_argument("out")
    parser.add_argument("--tools", required=True)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--leave")
    parser.add_argument("--sm", type=int, default=90)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    tools = os.path.realpath(arguments.tools)
    library = os.path.realpath(arguments.library)
    with open(library, "rb") as file:
        data = bytearray(file.read())
    binaries = list(fat_binaries(data, *fat_section(library)))
    with tempfile.TemporaryDirectory() as work:
        subprocess.run(
            [f"{tools}/cuobjdump", "--extract-ptx", "all", library],
            cwd=work,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        # NAME.N.sm_A.ptx: images are numbered through the whole library.
        found = {int(name.split(".")[-3]): name for name in os.listdir(work)}

        def compile_one(task):
            source, image = task
            with open(f"{work}/{source}", "rb") as file:
                ptx = file.read()
            entries = re.findall(rb"\.entry (\w+)", ptx)
            if arguments.leave and any(re.search(arguments.leave, e.decode()) for e in entries):
                return HEADER.pack(MAGIC, 1, HEADER.size, len(image)) + image, 0
            name = f"{hashlib.sha256(ptx).hexdigest()[:32]}.sm_{arguments.sm}"
            cubin, fat = f"{arguments.cache}/{name}.cubin", f"{work}/{name}.fatbin"
            if not os.path.exists(cubin):
                how = [f"-arch=sm_{arguments.sm}", "-O3", f"{work}/{source}", "-o", f"{cubin}.part"]
                subprocess.run([f"{tools}/ptxas", *how], check=True)
                os.rename(f"{cubin}.part", cubin)
            image = f"--image3=kind=elf,sm={arguments.sm},file={cubin}"
            how = [f"--create={fat}", "-64", image, "--compress-all"]
            subprocess.run([f"{tools}/fatbinary", *how], check=True)
            with open(fat, "rb") as file:
                return file.read(), 1

        tasks, number = [], 0
        for _, _, images in binaries:
            for architecture, begin, end in images:
                number += 1
                if f".sm_{architecture}." not in found[number]:
                    raise SystemExit(
                        f"image {number} is for sm_{architecture}, cuobjdump says {found[number]}"
                    )
                if architecture == arguments.sm:
                    tasks.append((found[number], bytes(data[begin:end])))
        if len(tasks) != len(binaries):
            raise SystemExit(
                f"{len(binaries)} fat binaries, {len(tasks)} with PTX for sm_{arguments.sm}"
            )
        os.makedirs(arguments.cache, exist_ok=True)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            made = list(pool.map(compile_one, tasks))
    for (begin, end, _), (fat, _) in zip(binaries, made, strict=True):
        if len(fat) > end - begin:
            raise SystemExit(
                f"the image at {begin:#x} has {len(fat)} bytes, {end - begin} are there"
            )
        data[begin:end] = fat.ljust(end - begin, b"\0")
    with open(arguments.out, "wb") as file:
        file.write(data)
    before, after = sum(end - begin for begin, end, _ in binaries), sum(len(fat) for fat, _ in made)
    compiled = sum(done for _, done in made)
    print(
        f"{compiled} of {len(made)} fat binaries compiled, {after / 1e6:.1f} MB of {before / 1e6:.1f}"
    )


main()
