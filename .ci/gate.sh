#!/usr/bin/env bash
# The parity gate without any CI service: compare, summarise, hold the promoted verdict to the code. Exit status of the worst.
#
#   .ci/gate.sh                      compares on the made tiny checkpoint
#   .ci/gate.sh --parity-checkpoint DIR   … on another one (arguments go to pytest)
#
# To promote what a run found: parity gate --promote reports/ci/verdict.json, then commit reports/promoted and have it reviewed.
set -euo pipefail
cd "$(dirname "$0")/.."

make setup
output=reports/ci
summary=${GITHUB_STEP_SUMMARY:-$output/summary.md}
mkdir -p "$output"
rm -f "$output/results.json" "$output/verdict.json"

status=0
.venv/bin/python -m pytest parity -q --parity-report "$output" "$@" || status=$?

if [ -f "$output/results.json" ]; then
    .venv/bin/parity report "$output/results.json" --markdown >>"$summary"
else
    echo "## Parity: no results were written" >>"$summary"
    [ "$status" -ne 0 ] || status=3
fi

# All suites may pass and evidence still be missing: what counts is the verdict of the run.
if [ -f "$output/verdict.json" ]; then
    given=0
    .venv/bin/parity gate --check --verdict "$output/verdict.json" || given=$?
else
    echo "The comparison wrote no verdict." | tee -a "$summary"
    given=3
fi
[ "$status" -ne 0 ] || status=$given

promoted=reports/promoted/verdict.json
if [ -f "$promoted" ]; then
    check=0
    found=$(.venv/bin/parity gate --check --verdict "$promoted") || check=$?
    printf '%s\n' "$found"
    printf '\n### Promoted verdict\n\n```text\n%s\n```\n' "$found" >>"$summary"
    [ "$status" -ne 0 ] || status=$check
else
    echo "No verdict is promoted: the bridge serves." | tee -a "$summary"
fi
exit "$status"
