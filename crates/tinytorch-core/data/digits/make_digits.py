"""Writes the two files that `tinytorch_core::data::digits` embeds.

Takes the 1,797 digits from an installed scikit-learn (1.9.1 was used) and writes them in
the IDX format of MNIST, gzipped: one byte a pixel (0..=16), one byte a label (0..=9), in
scikit-learn's order.

    python make_digits.py

Run it in this folder. It prints the sha256 of the source, of both files, and of what is
in them; the last two are recorded in SHA256SUMS and in digits.rs. The bytes of the .gz
files depend on the version of zlib, the bytes inside do not.
"""

import gzip
import hashlib
import importlib.resources
import struct

SOURCE_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


source = importlib.resources.files("sklearn.datasets.data").joinpath("digits.csv.gz").read_bytes()
if sha256(source) != SOURCE_SHA256:
    raise SystemExit(f"digits.csv.gz has changed: its sha256 is {sha256(source)}")

rows = [[int(v) for v in line.split(b",")] for line in gzip.decompress(source).splitlines()]
assert len(rows) == 1797 and all(len(row) == 65 for row in rows)
pixels = bytes(v for row in rows for v in row[:64])
labels = bytes(row[64] for row in rows)
assert max(pixels) == 16 and max(labels) == 9

# IDX: two zero bytes, 8 = unsigned byte, the number of dimensions, then each dimension
# as a big-endian u32. Source: Y. LeCun, "The MNIST database", file formats.
contents = {
    "digits-images-idx3-ubyte": struct.pack(">HBBIII", 0, 8, 3, 1797, 8, 8) + pixels,
    "digits-labels-idx1-ubyte": struct.pack(">HBBI", 0, 8, 1, 1797) + labels,
}
print(sha256(source), " digits.csv.gz")
for name, content in contents.items():
    packed = gzip.compress(content, 9, mtime=0)
    with open(name + ".gz", "wb") as file:
        file.write(packed)
    print(sha256(packed), f" {name}.gz")
    print(sha256(content), f" {name}")
