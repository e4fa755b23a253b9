#!/usr/bin/env bash
# Everything that a GPU can show, in one call of under nine minutes:
#
#     bash tests/gpu/run.sh             on a machine with an NVIDIA GPU, its driver, and nvcc
#     bash tests/gpu/run.sh --dry-run   the same scripts on the emulator: shows nothing of a GPU
#
# WHEELS=folder    install what is missing (PyCUDA, pytest …) from there, without a network
# PYTHON=python3   the interpreter; torch is compared with where this one has it
# OUT=folder       where the ladders' tables, rooflines and numbers (JSON) are left
#
# Each part has a limit of its own, so that one that fails leaves the others their time. The last
# thing printed is a summary in Markdown for kernels/README.md. Exit status 1 when a part failed.
set -uo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH=$PWD MPLBACKEND=Agg HF_HUB_OFFLINE=1
PYTHON=${PYTHON:-python3}
dry=no
[ "${1:-}" = --dry-run ] && dry=yes
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
rows=()
failed=0
TOTAL=530                                   # seconds for all parts together

# part NAME LIMIT COMMAND...: run it, show what it prints, note how it went.
part() {
  local name=$1 limit=$2 start=$SECONDS status last left=$((TOTAL - SECONDS))
  shift 2
  if [ $left -lt 10 ]; then
    skipped "$name" "the time of all parts together is over"
    failed=1
    return 1
  fi
  [ $left -lt "$limit" ] && limit=$left
  printf '\n## %s\n\n' "$name"
  timeout -k 10 "$limit" "$@" 2>&1 | tee "$logs/$name"
  status=${PIPESTATUS[0]}
  last=$(grep -v '^ *$' "$logs/$name" | tail -1 | tr '|' '/' | cut -c1-100)
  case $status in
    0) rows+=("| $name | ok | $((SECONDS - start)) s | $last |") ;;
    124 | 137) rows+=("| $name | over its $limit s | $((SECONDS - start)) s | $last |"); failed=1 ;;
    *) rows+=("| $name | **failed** ($status) | $((SECONDS - start)) s | $last |"); failed=1 ;;
  esac
  return "$status"
}

# skipped NAME WHY
skipped() { rows+=("| $1 | not run | | $2 |"); printf '\n## %s\n\nnot run: %s\n' "$1" "$2"; }

summary() {
  printf '\n## Summary\n\n'
  [ $dry = yes ] && printf 'DRY RUN on the emulator: no figure here says anything about a GPU.\n\n'
  printf '%s, %s\n\n| part | | time | its last line |\n|--|--|--|--|\n' "$(gpu_line)" "$(date -u +%F)"
  printf '%s\n' "${rows[@]}"
  [ -f "$logs/speed" ] && printf '\n' && grep '^|' "$logs/speed"
  [ -f "$logs/agreement" ] && printf '\n' && grep '^|' "$logs/agreement"
  # of the ladders the measured limits, and for each case its heading and its table
  [ -f "$logs/ladders" ] && printf '\n' && grep -A1 -E '^(### |\||.*Measured limits)' "$logs/ladders" | grep -v '^--$'
  exit $failed
}

gpu_line() {
  if [ $dry = yes ]; then echo "no GPU"; return; fi
  local gpu release
  gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1)
  release=$("$PYTHON" -c 'from kernels.cuda_compile import find_nvcc; print(find_nvcc().release)' \
            2>/dev/null)
  echo "${gpu:-unknown GPU}, CUDA toolkit ${release:-none}"
}

install() {
  local wanted=() from=()
  [ -n "${WHEELS:-}" ] && from=(--no-index --find-links "$WHEELS")
  for pair in numpy:numpy regex:regex safetensors:safetensors tqdm:tqdm pytest:pytest \
              hypothesis:hypothesis pycuda:pycuda; do
    [ $dry = yes ] && [ "${pair%%:*}" = pycuda ] && continue
    "$PYTHON" -c "import ${pair%%:*}" 2>/dev/null || wanted+=("${pair##*:}")
  done
  [ ${#wanted[@]} = 0 ] && echo "nothing is missing" && return
  echo "installing: ${wanted[*]}"
  "$PYTHON" -m pip install --quiet "${from[@]}" "${wanted[@]}" && echo "installed: ${wanted[*]}"
}

works() {       # does the device work? Its report, and exit status 1 where not.
  "$PYTHON" -m minigpt doctor || return
  "$PYTHON" - "$1" <<'PYTHON'
import sys
from kernels import doctor
found = doctor.self_test(sys.argv[1])
print(f"{found.state}: {found.text}")
sys.exit(found.state != "ok")
PYTHON
}
export -f install works
export PYTHON dry WHEELS=${WHEELS:-}

if [ $dry = yes ]; then
  device=emulator size=tiny chosen=(-k "orders or agree") few=(-k "fifty or matmul") only=(--ours-only --repeats 3)
else
  device=cuda size=124M chosen=() few=() only=()
  if ! command -v nvidia-smi >/dev/null && ! ldconfig -p 2>/dev/null | grep -q libcuda.so.1; then
    echo "tests/gpu/run.sh: no NVIDIA driver here (no nvidia-smi, no libcuda.so.1)." \
         "\`minigpt doctor\` says what is missing; --dry-run tries these scripts on the emulator."
    exit 2
  fi
  part machine 20 bash -c 'date -u; nvidia-smi; uname -srm; "$PYTHON" --version'
fi
export MINIGPT_TEST_DEVICE=$device

part install 240 bash -c install || summary
part doctor 60 bash -c "works $device" || summary
[ $dry = yes ] && skipped compile "nvcc is for a GPU" || part compile 120 "$PYTHON" -m tests.gpu.compile_all
pytest=("$PYTHON" -m pytest -q -p no:cacheprovider -m "slow or not slow" --no-header -rfE)
part kernels 100 "${pytest[@]}" tests/kernels --deselect tests/kernels/test_nvcc.py \
  --ignore tests/kernels/test_cuda_device.py --ignore tests/kernels/test_emulator.py "${chosen[@]}"
part model 70 "${pytest[@]}" tests/tensor/test_device.py tests/tensor/test_device_ops.py \
  tests/minigpt/test_on_device.py tests/minigpt/test_cli_device.py tests/minigpt/test_cuda_graph.py "${few[@]}"
part golden 40 "${pytest[@]}" tests/minigpt/test_golden.py tests/minigpt/test_golden_heads.py \
  -k $device
part agreement 60 "$PYTHON" -m tests.gpu.agree --size $size --device $device
ladders=${OUT:-$logs}/ladders-of-kernels
part ladders 110 "$PYTHON" -m kernels.bench all --device $device --blocks usual --out "$ladders" \
  --json "$ladders/all.json"
part speed 220 "$PYTHON" -m tests.gpu.speed --size $size --device $device "${only[@]}"

sanitizer=$(command -v compute-sanitizer || ls "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" 2>/dev/null)
for tool in memcheck racecheck; do
  if [ $dry = yes ]; then
    skipped $tool "there is no GPU to watch"
  elif [ -z "$sanitizer" ]; then
    skipped $tool "compute-sanitizer is not installed"
  else
    part $tool 80 "$sanitizer" --tool $tool --error-exitcode 99 --target-processes all \
      "${pytest[@]}" -x tests/kernels -k checked --deselect tests/kernels/test_nvcc.py \
      --ignore tests/kernels/test_cuda_device.py --ignore tests/kernels/test_emulator.py
  fi
done
summary
