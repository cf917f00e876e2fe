#!/usr/bin/env bash
# The whole GPU check in one command, within 9 minutes: build, tests, compute-sanitizer, benchmarks.
#
#   bench/on_gpu.sh OUT_DIR [--dry-run]
#
# Needs a CUDA device, nvcc, and a python3 with torch >= 2.10, Triton, cmake, ninja, pybind11, setuptools, pytest,
# hypothesis, numpy, typer, rich and tqdm. Nothing is downloaded. Every step has its own time limit and goes on after
# a failed one; logs, JSON results and summary.txt are left in OUT_DIR. Exit code 1 if any step failed.
# Not yet run on a GPU.
set -u -o pipefail
export PYTHONUNBUFFERED=1

dry_run=false
failed=0

# step NAME SECONDS COMMAND...: runs COMMAND under a time limit; its output goes to NAME's log, NAME up to the first dash.
step() {
  local name=$1 limit=$2 code=0 start=$SECONDS verdict
  shift 2
  if $dry_run; then
    printf '%s (%d s):' "$name" "$limit"
    printf ' %q' "$@"
    printf '\n'
    return
  fi
  printf '\n=== %s\n' "$name" >>"$out/${name%%-*}.log"
  timeout --kill-after=5 "$limit" "$@" >>"$out/${name%%-*}.log" 2>&1 || code=$?
  case $code in
    0) verdict="ok" ;;
    124 | 137) verdict="TIMED OUT after $limit s" failed=1 ;;
    *) verdict="FAILED with exit code $code" failed=1 ;;
  esac
  printf '%-22s %4d s  %s\n' "$name" $((SECONDS - start)) "$verdict" | tee -a "$out/summary.txt"
}

architecture() {  # of the first GPU, as CMake writes it: 90-real
  local capability
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d '. ')
  if [[ $capability =~ ^[0-9]+$ ]]; then echo "$capability-real"; else echo native; fi
}

main() {
  if [[ $# -lt 1 || $1 == -* || ($# -eq 2 && $2 != --dry-run) || $# -gt 2 ]]; then
    echo "usage: bench/on_gpu.sh OUT_DIR [--dry-run]" >&2
    exit 2
  fi
  if [[ $# -eq 2 ]]; then dry_run=true; else mkdir -p "$1" || exit 2; fi
  out=$(realpath -m "$1")
  cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
  $dry_run || rm -f "$out"/{machine,build,tests,sanitizer,bench}.log "$out"/{power_norm,overhead}.json "$out/summary.txt"

  local small="equal_the_reference and float32 and (cuda or triton) and not emu"
  step machine 10 nvidia-smi
  step build 95 env PK_CUDA=ON CMAKE_ARGS="-DPK_CUDA_ARCHS=$(architecture)" \
    python3 -m pip install --no-build-isolation --no-deps --verbose --editable .
  step tests-doctor 20 python3 -m probkernels doctor
  step tests 110 python3 -m pytest -m "not slow" -k "not emu" tests/ops tests/nn tests/compose
  for tool in memcheck racecheck synccheck; do
    step "sanitizer-$tool" 35 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      python3 -m pytest -k "$small" tests/ops
  done
  step bench-overhead 25 python3 -m probkernels.bench overhead --json "$out/overhead.json"
  step bench-power_norm 170 python3 -m probkernels.bench power_norm --json "$out/power_norm.json"
  exit $failed
}

# A test sources this file to try step alone.
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then main "$@"; fi
