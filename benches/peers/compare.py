"""Measures TinyTorch beside its peers: same machine, same run, in turns. One command:

    python benches/peers/compare.py                          # everything, 1 and 2 threads
    python benches/peers/compare.py i8 linear --threads 1    # some sections
    python benches/peers/compare.py --document docs/benchmarks.md i8

The first call makes a virtual environment below target/peers (onnxruntime, ai-edge-litert and torch: some GB, for the
torch on the package index needs CUDA's libraries even to compute on a CPU) and builds the Rust side, a workspace of its own.
Each table prints medians of what every subject reaches, ours over the best peer, and our share of a ceiling that was
measured in the same turns. With --document the tables replace the parts of that file between `<!-- compare SECTION -->` and
`<!-- end -->`.

A section is a module in `runtimes/` with a function `run(threads) -> Table`; SECTIONS names them all.
"""

import argparse
import datetime
import os
import pathlib
import platform
import re
import subprocess
import sys
import venv

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "peers"
PYTHON = TARGET / "venv" / "bin" / "python"

# What is compared with, by the names of the package index.
PEERS = ["onnxruntime", "torch", "ai-edge-litert", "numpy"]

# Section: (module in runtimes/, function).
SECTIONS = {
    "i8": ("products", "run_i8"),
    "f32": ("products", "run_f32"),
    "linear": ("linear", "run"),
    "models": ("models", "run"),
    "elementwise": ("elementwise", "run"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--threads", default="1,2", help="comma-separated, default 1,2")
    parser.add_argument("--document", type=pathlib.Path, help="Markdown file whose marked parts are replaced")
    parser.add_argument("--prepare", action="store_true", help="only make the environment and build")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    make_environment()
    build = ["cargo", "build", "--release", "--quiet", "--locked", "--target-dir", TARGET / "cargo"]
    subprocess.run(build, cwd=HERE, check=True)
    if options.prepare:
        return
    for section in options.sections or SECTIONS:
        tables = [measure(section, int(threads)) for threads in options.threads.split(",")]
        text = f"{where()}\n\n" + "".join(tables)
        print(text, flush=True)
        if options.document:
            replace_part(options.document, section, text)


def make_environment():
    """Installs the Python peers, once. torch's requirements are taken from its own metadata, without its compiler."""
    done = TARGET / "venv" / "complete"
    if done.exists():
        return
    TARGET.mkdir(parents=True, exist_ok=True)
    venv.create(TARGET / "venv", with_pip=True)

    def pip(*arguments):
        subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", *arguments], check=True)

    pip("onnx", "packaging", *(peer for peer in PEERS if peer != "torch"))
    pip("--no-deps", "torch")
    listing = (
        "import importlib.metadata as m; from packaging.requirements import Requirement as R\n"
        "for r in map(R, m.requires('torch')):\n"
        "    if not r.marker or r.marker.evaluate({'extra': ''}):\n"
        "        extras = '[' + ','.join(sorted(r.extras)) + ']' if r.extras else ''\n"
        "        if r.name not in ('triton', 'cuda-bindings'): print(r.name + extras + str(r.specifier))\n"
    )
    requirements = subprocess.run([PYTHON, "-c", listing], check=True, capture_output=True, text=True).stdout
    pip(*requirements.split())
    done.touch()


def where():
    """A line that says on what and beside what was measured: it stands above the tables, so that they cannot lose it."""
    cpu = {}
    if pathlib.Path("/proc/cpuinfo").exists():
        for line in pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            cpu[name.strip()] = value.strip()
    names = ["avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"]
    flags = [name for name in names if name in cpu.get("flags", "").split()]
    family = f"family {cpu.get('cpu family', '?')}, model {cpu.get('model', '?')}"
    listing = "import importlib.metadata as m; print(*(f'{p} {m.version(p)}' for p in %r), sep=', ')" % PEERS
    peers = subprocess.run([PYTHON, "-c", listing], check=True, capture_output=True, text=True).stdout.strip()
    return (
        f"{cpu.get('model name') or platform.processor() or platform.machine()} ({family}; {' '.join(flags)}), "
        f"{os.cpu_count()} CPUs, {datetime.date.today()}; {peers}."
    )


def measure(section, threads):
    """Runs one section in a process of its own: libraries read the number of threads once, when they are loaded."""
    module, function = SECTIONS[section]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")},
        **{f"{name}_NUM_THREADS": str(threads) for name in ("RAYON", "RTEN", "OMP", "MKL", "OPENBLAS")},
        "TINYTORCH_PEERS_SERVER": str(TARGET / "cargo" / "release" / "tinytorch-peers"),
        "PYTHONPATH": str(HERE),
        "PYTHONWARNINGS": "ignore",
    }
    code = f"from runtimes import {module}; print({module}.{function}({threads}).markdown({threads}))"
    result = subprocess.run([PYTHON, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"section {section} failed")
    return result.stdout


def replace_part(document, section, text):
    pattern = re.compile(rf"(<!-- compare {section} -->\n).*?(<!-- end -->)", re.DOTALL)
    before = document.read_text()
    if not pattern.search(before):
        sys.exit(f"{document} has no part <!-- compare {section} --> ... <!-- end -->")
    document.write_text(pattern.sub(lambda marks: marks[1] + text + marks[2], before))


if __name__ == "__main__":
    main()
