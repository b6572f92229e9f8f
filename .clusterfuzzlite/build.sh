#!/bin/bash -eu
exec bash -eu "$SRC/mountwarden/fuzz/oss-fuzz/build.sh"
