#!/usr/bin/env bash
# Makes the virtual environment $VENV as .ci/requirements.txt says, or does nothing if it
# is ready. An interrupted set-up continues. `make help` lists the variables.
#
# TOOLBOX is 'onedl', 'openmmlab' (the stock stack, .ci/openmmlab.sed) or 'none': PyTorch
# and what the metadata of ubn_mmdet ask of it for tests, as pip resolves them.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
PYTHON=${PYTHON:-python3}
# A limit on the threads of a training, which nproc heeds, is none on compilers.
MAX_JOBS=${MAX_JOBS:-$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)}
CXX=${CXX:-c++}
TOOLBOX=${TOOLBOX:-onedl}
requirements=.ci/requirements.txt
pretraining=.ci/pretraining.txt
stamp=$VENV/.ubn_mmdet-ready

fail() {
    echo "set-up: $*" >&2
    exit 1
}

# pins FILE: its lines, as they are for this toolbox.
pins() {
    case $TOOLBOX in
    openmmlab) sed -f .ci/openmmlab.sed "$1" ;;
    none) grep -v '^onedl-' "$1" ;;
    *) cat "$1" ;;
    esac
}

pinned() { pins "$requirements" | grep -E "^($1)=="; }

# What was installed last time holds until something else is asked for.
TORCH=${TORCH:-$(cat "$VENV/.torch" 2>/dev/null || pinned torch)}

fingerprint() {
    {
        pins "$requirements"
        pins "$pretraining"
        cat .ci/setup.sh
        [[ $TOOLBOX != none ]] || cat setup.cfg
        echo "$TORCH"
        "$VENV/bin/python" -VV
    } | sha256sum
}

check_machine() {
    "$PYTHON" -V &>/dev/null || fail "$PYTHON does not run; PYTHON= names another"
    "$PYTHON" -c 'import sys
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' ||
        fail "$("$PYTHON" -V) is not supported: 3.10 to 3.13 are; PYTHON= names another"
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$PYTHON cannot make virtual environments: install its venv package" \
            "(Debian, Ubuntu: apt-get install python3-venv)"
    command -v "${CXX%% *}" >/dev/null ||
        fail "MMCV's operators need a C++ compiler, and ${CXX%% *} is not found" \
            "(Debian, Ubuntu: apt-get install g++; or set CXX)"
    "$PYTHON" -c 'import os, sysconfig
sys_include = sysconfig.get_paths()["include"]
raise SystemExit(not os.path.exists(os.path.join(sys_include, "Python.h")))' ||
        fail "MMCV's operators need Python's headers, and Python.h is not found" \
            "(Debian, Ubuntu: apt-get install python3-dev)"

    local disk memory
    disk=$(df -Pk "$(dirname "$VENV")" | awk 'NR == 2 { print int($4 / 2^20) }')
    memory=$(awk '/MemAvailable/ { print int($2 / 2^20) }' /proc/meminfo)
    ((disk >= 8)) || echo "set-up: only $disk GiB of disk are free; CPU builds of" \
        "PyTorch take about 3 in all, CUDA builds about 10"
    ((memory >= 2 * MAX_JOBS)) || echo "set-up: only $memory GiB of memory for" \
        "$MAX_JOBS compilers; if one is killed, set MAX_JOBS=1"
}

# What is known about the causes of a failure, from the log.
advise() {
    case $(tail -n 400 "$1") in
    *"Python.h: No such file"*) echo "Python's headers are missing (python3-dev)." ;;
    *"Killed signal"* | *"Cannot allocate memory"* | *"internal compiler error"*)
        echo "The compiler ran out of memory: try MAX_JOBS=1." ;;
    *"No space left"*) echo "The disk is full; TMPDIR can name another for building." ;;
    *"No matching distribution"* | *"Max retries"* | *"name resolution"*)
        echo "The package index was not reached or lacks this version: see pip's" \
            "settings (PIP_INDEX_URL and others); TORCH= names another PyTorch." ;;
    esac
}

# A line every 20 s: time passed; files compiled, if the log tells, and once three are, the
# time left; and what .ci/pch-g++ has to say.
progress() {
    local log=$1 start=$SECONDS count='' compiled total first since left note=''
    # The sleep must not hold the output open for those who wait for its end.
    while sleep 20 &>/dev/null; do
        left=''
        count=$(grep -aoE '^ *\[[0-9]+/[0-9]+\] ' "$log" | tail -n 1 | tr -d ' []') || true
        if [[ $count ]]; then
            compiled=${count%/*} total=${count#*/}
            # Counted from the first: before it come downloads and headers.
            : "${first:=$compiled}" "${since:=$SECONDS}"
            ((compiled - first < 3)) ||
                left=$(((SECONDS - since) * (total - compiled) / (compiled - first) / 60 + 1))
        fi
        printf '    %d min %02d s%s%s\n' $(((SECONDS - start) / 60)) \
            $(((SECONDS - start) % 60)) "${count:+, ${count/\// of } files compiled}" \
            "${left:+, about $left min left}"
        [[ $note ]] || ! note=$(grep -aom 1 'set-up: .*' "$log") || echo "$note"
    done
}

# step NAME WHAT COMMAND...: run with the output in a log, and a sign of life.
step() {
    local log=$VENV/log/$1.txt status=0
    echo "set-up: $2"
    shift 2
    : >"$log"
    progress "$log" &
    ticker=$!
    "$@" >"$log" 2>&1 || status=$?
    stop_ticker
    ((status)) || return 0
    tail -n 20 "$log" >&2
    fail "failed; above is the end of $log. $(advise "$log")" \
        "The next run continues from this step."
}

ticker=''
stop_ticker() {
    [[ $ticker ]] || return 0
    kill "$ticker" 2>/dev/null || true
    wait "$ticker" 2>/dev/null || true
    ticker=''
}

# pip reuses a wheel that it built once, for whatever PyTorch there was. So MMCV gets a
# cache for each PyTorch, and for each kind of operators it can have.
mmcv_cache() {
    local cache kind
    cache=$("$VENV/bin/pip" cache dir 2>/dev/null) || return 0
    kind=$("$VENV/bin/python" -c 'import torch
print(torch.__version__, "cuda" if torch.cuda.is_available() else "cpu", sep="-")')
    echo "--cache-dir=$cache/ubn_mmdet-$kind"
}

# A CUDA build of PyTorch has brought the Triton that it works with.
has_triton() { "$VENV/bin/python" -c 'import triton' &>/dev/null; }

install_toolbox() {
    pins "$requirements" |
        grep -vE "^(torch|(onedl-)?mmcv$(has_triton && echo '|triton'))==" \
            >"$VENV/.rest.txt"
    step packages "the other packages of $requirements" \
        "${pip[@]}" --no-deps --no-build-isolation -r "$VENV/.rest.txt"

    pins "$pretraining" | grep -v '^torchvision==' >"$VENV/.pretraining.txt"
    rm -rf "$VENV/pretraining"
    local beside=(--no-deps --no-build-isolation --target "$VENV/pretraining")
    step pretraining "MMPreTrain, for pre-training, in $VENV/pretraining" \
        "${pip[@]}" "${beside[@]}" -r "$VENV/.pretraining.txt"
    # The build of torchvision that fits is where PyTorch's was, if it is of this version.
    (
        step torchvision "torchvision, for MMPreTrain" \
            "${pip[@]}" "${beside[@]}" "$(grep '^torchvision==' "$pretraining")" \
            "${torch_options[@]}"
    ) || echo "set-up: goes on without torchvision, which only pre-training needs"

    local cache
    mapfile -t cache < <(mmcv_cache)
    # An absolute path: pip builds in a folder of its own.
    step mmcv "MMCV. Its C++ operators are compiled from source the first time: 78 files, with
    $MAX_JOBS compilers at once (MAX_JOBS), more and longer with CUDA. After three of them you
    see how long it takes. Later set-ups take pip's copy. Log: $VENV/log/mmcv.txt" \
        env MMCV_WITH_OPS=1 MAX_JOBS="$MAX_JOBS" CXX="$PWD/.ci/pch-g++" REAL_CXX="$CXX" \
        PCH_DIR="$(cd "$VENV" && pwd)/pch" "${pip[@]}" -v --no-deps \
        --no-build-isolation --force-reinstall "${cache[@]}" "$(pinned '(onedl-)?mmcv')"
    rm -rf "$VENV/pch"

    step package "ubn_mmdet itself, editable" \
        "${pip[@]}" --no-deps --no-build-isolation -e .
    step check "checking what is installed" "$VENV/bin/python" -m ubn_mmdet
}

# Versions are those of the pins, as far as they have them.
install_alone() {
    pins "$requirements" | grep -v '^torch==' >"$VENV/.pins.txt"
    step package "ubn_mmdet itself, editable, and what it needs for tests" \
        "${pip[@]}" --no-build-isolation -c "$VENV/.pins.txt" -e '.[test]'
}

if [[ -f $stamp && $(fingerprint) == "$(<"$stamp")" ]]; then
    exit 0
fi

[[ $TOOLBOX =~ ^(onedl|openmmlab|none)$ ]] ||
    fail "TOOLBOX=$TOOLBOX is not one of onedl, openmmlab and none"
check_machine
[[ -x $VENV/bin/pip ]] || "$PYTHON" -m venv "$VENV"
mkdir -p "$VENV/log"
rm -f "$stamp"
trap 'stop_ticker; rm -rf "$VENV/pch"' EXIT # precompiled headers take half a gigabyte
pip=("$VENV/bin/python" -m pip --disable-pip-version-check install)

build='setuptools|wheel'
[[ $TOOLBOX == none ]] || build+='|numpy|ninja'
mapfile -t build < <(pinned "$build")
step build "build tools" "${pip[@]}" "${build[@]}"
# TORCH may hold options of pip as well, such as an index that has nothing but PyTorch.
read -ra torch <<<"$TORCH"
torch_options=()
for word in "${torch[@]}"; do
    [[ $word == torch* || $word == *.whl ]] || torch_options+=("$word")
done
step torch "PyTorch ($TORCH); minutes, by the speed of the network" \
    "${pip[@]}" "${torch[@]}"
echo "$TORCH" >"$VENV/.torch"

case $TOOLBOX in
none) install_alone ;;
*) install_toolbox ;;
esac

fingerprint >"$stamp.new"
mv "$stamp.new" "$stamp"
echo "set-up: $VENV is ready"
