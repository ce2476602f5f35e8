"""Let the native part of torchvision's CUDA build, the only one there is, load beside a CPU torch.

``transformers serve`` decodes pictures with it. It is linked against three CUDA libraries that are
not there; here they are made, with every function that torchvision asks for: those of the CUDA
runtime report success, all others stop the program. Nothing on a CPU calls them. Needs gcc and nm.
"""

import pathlib
import subprocess
import sysconfig
import tempfile

PACKAGES = pathlib.Path(sysconfig.get_paths()["purelib"])
TARGET = PACKAGES / "torchvision.libs"  # where the native part looks first
TORCH = ("libc10.so", "libtorch.so", "libtorch_cpu.so", "libtorch_python.so")


def symbols(kind: str, file: pathlib.Path) -> set[str]:
    """Names in a library's dynamic symbol table, ``defined`` or ``undefined``."""
    listing = subprocess.run(
        ["nm", "-D", f"--{kind}-only", str(file)], capture_output=True, text=True, check=True
    )
    return {line.split()[-1] for line in listing.stdout.splitlines()}


def build(name: str, assembly: str, *options: str) -> None:
    """A shared library of that name in ``TARGET``."""
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "stub.s"
        source.write_text(assembly + '.section .note.GNU-stack,"",@progbits\n')
        subprocess.run(
            ["gcc", "-shared", "-nostdlib", f"-Wl,-soname,{name}", *options,
             "-o", str(TARGET / name), str(source)],
            check=True,
        )  # fmt: skip


def main() -> None:
    """Build the three."""
    native = [PACKAGES / "torchvision" / name for name in ("_C.so", "image.so")]
    wanted = set.union(*(symbols("undefined", file) for file in native))
    there = {
        symbol.split("@")[0]
        for name in TORCH
        for symbol in symbols("defined", PACKAGES / "torch" / "lib" / name)
    }
    missing = sorted(
        symbol for symbol in wanted - there if "@" not in symbol and "cuda" in symbol.lower()
    )
    lines = []
    for symbol in missing:
        if "allocator" in symbol:  # a variable
            lines += [".data", f".globl {symbol}", f"{symbol}: .zero 64"]
        else:
            lines += [".text", f".globl {symbol}", f".type {symbol},@function", f"{symbol}: ud2"]
    build("libc10_cuda.so", "\n".join(lines) + "\n")
    build("libtorch_cuda.so", "")
    runtime = "libcudart.so.13"
    lines = [".text"]
    for symbol in sorted(s.split("@")[0] for s in wanted if s.endswith("@" + runtime)):
        lines += [
            f".globl {symbol}",
            f".type {symbol},@function",
            f"{symbol}: xor %eax,%eax",
            "ret",
        ]
    with tempfile.NamedTemporaryFile("w", suffix=".map") as versions:
        versions.write(runtime + " { global: *; };\n")
        versions.flush()
        build(runtime, "\n".join(lines) + "\n", f"-Wl,--version-script={versions.name}")


if __name__ == "__main__":
    main()
