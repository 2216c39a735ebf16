#!/usr/bin/env bash
# Runs once, when the autograder's image is built: a compiler, the grader, and one grading to have everything compiled and tried.
set -euo pipefail
autograder="${AUTOGRADER:-/autograder}"
course="$autograder/source/course"
export PATH="$HOME/.cargo/bin:$PATH"
if ! command -v cc > /dev/null; then
    apt-get update
    apt-get install -y --no-install-recommends gcc libc6-dev ca-certificates curl
fi
if ! command -v cargo > /dev/null; then
    apt-get install -y --no-install-recommends rustup \
        || curl --proto '=https' --tlsv1.2 -fsS https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain none
    rustup toolchain install {toolchain} --profile minimal
    rustup default {toolchain}
fi
cd "$course"
cargo build --release --locked --package tito-grade
try="$(mktemp -d)"
mkdir -p "$try/submissions/stub"
cp modules/{module}/*.rs "$try/submissions/stub/"
cargo run --release --quiet --locked --package tito-grade -- --workspace "$course" run "$try/submissions" --module {module} --out "$try/results" --require-isolation {isolation} {own}
rm -rf "$try"
