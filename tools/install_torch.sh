#!/bin/sh
# install_torch.sh PYTHON [REQUIREMENT]: put torch into an environment, without CUDA where there is no use for it.
#
# On Linux the package index's own torch brings gigabytes of CUDA libraries. A machine without an NVIDIA GPU gets a
# CPU build instead, from the machine's own wheels (pip's find-links) or else from PyTorch's index, if it answers.
set -eu

python=$1
requirement=${2:-torch}
cpu_index=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}
pip() { "$python" -m pip --disable-pip-version-check "$@"; }

if "$python" -c 'import importlib.metadata as metadata; metadata.version("torch")' 2>/dev/null; then
    exit 0
fi

if [ "$(uname -s)" = Linux ] && ! nvidia-smi >/dev/null 2>&1; then
    # --no-deps: neither of the two places need have torch's dependencies; installing alad_hf brings them.
    if pip install --quiet --no-deps --no-index "$requirement" 2>/dev/null; then
        exit 0
    fi
    # Ask first and briefly, so that a closed network costs seconds while a slow one may still take its time.
    if pip index versions torch --index-url "$cpu_index" --retries 0 --timeout 5 >/dev/null 2>&1 &&
        pip install --quiet --no-deps --index-url "$cpu_index" "$requirement"; then
        exit 0
    fi
    echo "install_torch.sh: no CPU build of '$requirement' within reach; taking the package index's build" >&2
fi
pip install --quiet "$requirement"
