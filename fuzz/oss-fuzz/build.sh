#!/bin/bash -eu
# Builds every target for OSS-Fuzz and ClusterFuzzLite, whose environment it runs in:
# SRC has the repository, OUT takes each target, its seeds and its dictionary.
cd "$SRC/mountwarden"

export CARGO_PROFILE_RELEASE_LTO=off
cargo fuzz build -O -a --features libfuzzer --sanitizer "${SANITIZER/#coverage/none}" \
    --target-dir "$WORK/target"

for source in fuzz/fuzz_targets/*.rs; do
    target=$(basename "$source" .rs)
    cp "$WORK/target/x86_64-unknown-linux-gnu/release/$target" "$OUT/"
    cp "fuzz/dictionaries/$target.dict" "$OUT/"
    rm -f "$OUT/${target}_seed_corpus.zip"
    zip -q -j "$OUT/${target}_seed_corpus.zip" fuzz/corpus/"$target"/*
    printf '[libfuzzer]\nmax_len = 4096\n' >"$OUT/$target.options"
done
