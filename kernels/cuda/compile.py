"""Compiles the CUDA sources of this folder to PTX with NVRTC, and records how.

    python compile.py --nvrtc LIBNVRTC --ptxas PTXAS --check   compare what is committed (ptx/) with a new compilation
    python compile.py --nvrtc LIBNVRTC --ptxas PTXAS           compile again, and record what ptxas makes of it

`bash .ci/ptx` runs it with the pinned compilers. A unit is prelude.cu, the .cuh files of the source's folder in the order
of their names, and the source; there is nothing else to include.
"""

import argparse
import ctypes
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
PTX = HERE / "ptx"
MANIFEST = PTX / "manifest.json"

# Each source for every generation that it says something special about; a device takes the newest that it can run.
TARGETS = {
    "maxsim/maxsim_naive.cu": [80],
    "maxsim/maxsim_mma.cu": [80],
    "maxsim/maxsim_stream.cu": [80, 90],
    "encoder/encoder_norm.cu": [80],
    "encoder/encoder_activate.cu": [80],
    "encoder/encoder_product.cu": [80],
    "encoder/encoder_attention.cu": [80],
    "encoder/encoder_sequence.cu": [80],
}
# What drivers translate the newest PTX of a source to where there is a newer device: recorded beside its own generation.
NEWEST = 90
OPTIONS = ["--std=c++17"]
# The encoder's sources say fmaf where they mean it: a sum then has the same bits in every instantiation of a template, and
# on the CPU of the tests, whatever a compiler would make of a multiplication beside an addition.
ENCODER_OPTIONS = [*OPTIONS, "--fmad=false"]


def unit(source):
    """What is compiled: the text, and its digest."""
    path = HERE / source
    parts = [HERE / "prelude.cu", *sorted(path.parent.glob("*.cuh")), path]
    text = "".join(f'#line 1 "{part.relative_to(HERE)}"\n{part.read_text(encoding="utf-8")}' for part in parts)
    return text, hashlib.sha256(text.encode()).hexdigest()


class Nvrtc:
    """The compiler, as a library."""

    def __init__(self, path):
        self.library = ctypes.CDLL(str(path))
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def call(self, name, *arguments):
        status = getattr(self.library, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name}: {self.library.nvrtcGetErrorString(status).decode()}")

    def version(self):
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def compile(self, text, name, options):
        program = ctypes.c_void_p()
        self.call("nvrtcCreateProgram", ctypes.byref(program), text.encode(), name.encode(), 0, None, None)
        flags = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        status = self.library.nvrtcCompileProgram(program, len(options), flags)
        size = ctypes.c_size_t()
        self.call("nvrtcGetProgramLogSize", program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        self.call("nvrtcGetProgramLog", program, log)
        if log.value.strip():
            print(log.value.decode(), file=sys.stderr)
        if status != 0:
            raise RuntimeError(f"{name} does not compile")
        self.call("nvrtcGetPTXSize", program, ctypes.byref(size))
        ptx = ctypes.create_string_buffer(size.value)
        self.call("nvrtcGetPTX", program, ptx)
        self.call("nvrtcDestroyProgram", ctypes.byref(program))
        return ptx.value.decode()


def file_name(source, target):
    return f"{pathlib.Path(source).stem}.sm_{target}.ptx"


def resources(ptxas, ptx, target):
    """Registers, spilled bytes and static shared memory of each kernel, by the assembler for one device of that generation."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "unit.ptx"
        path.write_text(ptx, encoding="utf-8")
        command = [ptxas, "-v", f"-arch=sm_{target}", str(path), "-o", str(path.with_suffix(".cubin"))]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = {}
    pattern = (
        r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers([^\n]*)"
    )
    for name, stores, loads, registers, rest in re.findall(pattern, text, re.DOTALL):
        shared = re.search(r"(\d+) bytes smem", rest)
        found[name] = {
            "registers": int(registers),
            "spilled_bytes": int(stores) + int(loads),
            "static_shared_bytes": int(shared.group(1)) if shared else 0,
        }
    return found


def resources_of_file(ptxas, ptx, source, target):
    """The manifest's entries of a file: for its own generation, and for the newest if that gets this file."""
    found = {"kernels": resources(ptxas, ptx, target)}
    if target == max(TARGETS[source]) and target < NEWEST:
        found[f"kernels_on_sm_{NEWEST}"] = resources(ptxas, ptx, NEWEST)
    return found


def build(nvrtc):
    for source, targets in TARGETS.items():
        text, digest = unit(source)
        for target in targets:
            own = ENCODER_OPTIONS if source.startswith("encoder/") else OPTIONS
            options = [f"--gpu-architecture=compute_{target}", *own]
            yield source, target, options, digest, nvrtc.compile(text, pathlib.Path(source).name, options)


def assembler_version(ptxas):
    text = subprocess.run([ptxas, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"release ([\d.]+)", text).group(1)


def check(nvrtc, ptxas):
    recorded = json.loads(MANIFEST.read_text(encoding="utf-8"))
    faults = []
    if recorded["nvrtc"] != nvrtc.version():
        faults.append(f"the manifest says NVRTC {recorded['nvrtc']}, this is {nvrtc.version()}")
    if recorded["ptxas"] != assembler_version(ptxas):
        faults.append(f"the manifest says ptxas {recorded['ptxas']}, this is {assembler_version(ptxas)}")
    expected = {MANIFEST.name}
    for source, target, options, digest, ptx in build(nvrtc):
        name = file_name(source, target)
        expected.add(name)
        entry = recorded["files"].get(name, {})
        if not (PTX / name).is_file() or (PTX / name).read_text(encoding="utf-8") != ptx:
            faults.append(f"{name} is not what {source} compiles to")
        if entry.get("source_sha256") != digest or entry.get("options") != options:
            faults.append(f"the manifest does not describe {name}")
        if entry.get("ptx_sha256") != hashlib.sha256(ptx.encode()).hexdigest():
            faults.append(f"the manifest has another digest of {name}")
        if {key: entry[key] for key in entry if key.startswith("kernels")} != resources_of_file(ptxas, ptx, source, target):
            faults.append(f"the manifest has other registers, spills or shared memory of {name}")
    faults += [f"{path.name} belongs to no source" for path in PTX.iterdir() if path.name not in expected]
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        print("`bash .ci/ptx --write` compiles again", file=sys.stderr)
    return 1 if faults else 0


def write(nvrtc, ptxas):
    PTX.mkdir(exist_ok=True)
    files = {}
    for source, target, options, digest, ptx in build(nvrtc):
        name = file_name(source, target)
        (PTX / name).write_text(ptx, encoding="utf-8")
        found = resources_of_file(ptxas, ptx, source, target)
        files[name] = {
            "source": source,
            "source_sha256": digest,
            "options": options,
            "ptx_sha256": hashlib.sha256(ptx.encode()).hexdigest(),
            **found,
        }
        for kernel, used in found["kernels"].items():
            print(f"{name:28} {kernel:32} {used['registers']:4} registers, {used['spilled_bytes']} bytes spilled")
    manifest = {"nvrtc": nvrtc.version(), "ptxas": assembler_version(ptxas), "files": files}
    MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvrtc", required=True, help="path of libnvrtc.so")
    parser.add_argument("--ptxas", required=True, help="path of ptxas")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args()
    nvrtc = Nvrtc(options.nvrtc)
    return check(nvrtc, options.ptxas) if options.check else write(nvrtc, options.ptxas)


if __name__ == "__main__":
    sys.exit(main())
