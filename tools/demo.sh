#!/bin/sh
# What `make demo` shows: the sample data staged in a data root of its own, build/demo, and what came out of it.
set -eu
cd "$(dirname "$0")/.."

# The same output everywhere: no settings from the caller's environment, one language, no colour.
for name in $(env | sed -n 's/^\(INGESTD_[A-Za-z0-9_]*\)=.*/\1/p'); do unset "$name"; done
export COLUMNS=120 NO_COLOR=1 PYTHONUTF8=1 LC_ALL=C

DEMO=build/demo
rm -rf "$DEMO"
mkdir -p "$DEMO"
cp -R data/01_raw "$DEMO/01_raw"
# The runs were over long ago: a fresh clone would make them look as if they had been written just now.
find "$DEMO/01_raw" -type f -exec touch -t 202603132200 {} +

show() { # show STATUS COMMAND...: print the command, run it, and insist on its exit status
    expected=$1
    shift
    printf '\n$ %s\n' "$*"
    status=0
    "$@" 2>&1 || status=$?
    if [ "$status" -ne "$expected" ]; then
        echo "demo: '$*' ended with status $status, expected $expected" >&2
        exit 1
    fi
}

say() { printf '\n# %s\n' "$*"; }

printf '# %s holds two days of simulated measurements. Stage them all.\n' "$DEMO/01_raw"
printf '# (Exit status 1 means that some file needs attention; the others are staged.)\n'
show 1 ingestd backfill --data-root "$DEMO"

say "What exactly is wrong with the rejected file?"
show 0 ingestd rejects show 2026-03-12/IV2026-03-12_3.csv --data-root "$DEMO"

say "Correct the row (24,8 should read 24.8) and run backfill again: only that file is opened."
mended="$DEMO/01_raw/2026-03-12/IV2026-03-12_3.csv"
printf '\n$ %s\n' "sed -i s/,24,8,/,24.8,/ $mended"
sed 's/,24,8,/,24.8,/' "$mended" > "$DEMO/mended" && touch -t 202603132300 "$DEMO/mended" && mv "$DEMO/mended" "$mended"
show 0 ingestd backfill --data-root "$DEMO"

say "What was measured on chip Biotite3? (seq, date, time, procedure, summary)"
show 0 cut -d , -f 1-5 "$DEMO/histories/Biotite3_history.csv"

say "Where is the Parquet? One folder per procedure, day and run, and one table of all runs."
printf '\n$ %s\n' "find $DEMO/02_stage -name '*.parquet' | grep -e proc=IV/ -e manifest.parquet | sort"
find "$DEMO/02_stage" -name '*.parquet' | grep -e proc=IV/ -e manifest.parquet | sort

say "And from Python:"
code="import ingestd; print(*ingestd.load_manifest('$DEMO')['summary'].head(3), sep='\\n')"
printf '\n$ %s\n' "python -c \"$code\""
python -c "$code"
