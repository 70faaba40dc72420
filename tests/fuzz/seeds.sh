#!/bin/bash
# The inputs that a fuzzer begins with are lines of base64 in tests/fuzz/seeds/FUZZER.
#   seeds.sh unpack FUZZER DIR   puts them into DIR, a file each, where libFuzzer looks for them
#   seeds.sh pack FUZZER DIR     makes them anew from DIR, best after -set_cover_merge=1
set -eu
file=$(dirname "$0")/seeds/$2
case $1 in
  unpack)
    [ -f "$file" ] || exit 0
    number=0
    while read -r line; do
      number=$((number + 1))
      base64 -d <<<"$line" >"$3/seed-$number"
    done <"$file"
    ;;
  pack)
    for input in "$3"/*; do base64 -w 0 "$input"; echo; done | LC_ALL=C sort -u >"$file"
    ;;
  *)
    echo "usage: $0 pack|unpack FUZZER DIR" >&2
    exit 2
    ;;
esac
