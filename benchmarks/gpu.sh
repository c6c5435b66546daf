#!/usr/bin/env bash
# All that waits for a GPU, in one command and within eight minutes, what matters most first.
#
#   benchmarks/gpu.sh [FILE]              one JSON line for each result, to FILE (gpu.jsonl) and standard output
#   DEVICE=cpu benchmarks/gpu.sh [FILE]   every step on a CPU with very small shapes, to see that it works
#
# PYTHON: the interpreter (python3), which need not have alignbench installed, only what it needs. TRL_PPO: a folder
# with TRL 1.12.0, for the peer. LIMIT: seconds for all steps together (460). A line is written as soon as there is a
# result; a step that fails, or for which no time is left, has a line that says so. What else they say is in FILE.log.
set -umo pipefail

file=$(realpath "${1:-gpu.jsonl}")
cd "$(dirname "$0")/.." || exit
python=${PYTHON:-python3} device=${DEVICE:-cuda} limit=${LIMIT:-460}
scratch=$(mktemp -d)
# What an installation would put on the path.
ln -s "$PWD/recipes" "$scratch/alignbench_recipes"
ln -s "$PWD/tests/conformance" "$scratch/alignbench_conformance"
export PYTHONPATH="$PWD:$PWD/benchmarks:$scratch${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
: >"$file" >"$file.log"
trap 'rm -rf "$scratch"' EXIT
trap 'kill "$(<"$scratch/pid")"; exit 143' INT TERM # timeout tells all that the step has started

keep() { tee -a "$file"; }

failed() { # NAME WHY: the line of a step without a result
    local why
    why=$(printf %s "$2" | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g')
    printf '{"step": "%s", "failed": "%s"}\n' "$1" "$why" | keep
}

step() { # NAME SECONDS ARGUMENTS: runs Python; its JSON lines get the name of the step
    local name=$1 seconds=$2 started=$SECONDS why
    shift 2
    if ((SECONDS >= limit)); then
        failed "$name" "no time was left"
        return
    fi
    [ "$device" = cpu ] && seconds=$((10 * seconds))
    ((SECONDS + seconds > limit)) && seconds=$((limit - SECONDS))
    echo "== $name" >>"$file.log"
    {
        (
            echo "$BASHPID" >"$scratch/pid"
            exec timeout -s INT -k 5 "$seconds" "$python" "$@" 2>"$scratch/errors"
        )
        echo $? >"$scratch/status"
    } | tee -a "$file.log" | sed -un "s/^{\"/{\"step\": \"$name\", \"/p" | keep &
    wait $! # not in the foreground, where a signal would wait for the step
    cat "$scratch/errors" >>"$file.log"
    case $(<"$scratch/status") in
    0) ;;
    124 | 137) failed "$name" "not done after $((SECONDS - started)) s" ;;
    *)
        why=$(grep . "$scratch/errors" | tail -n 1)
        failed "$name" "${why:-ended with code $(<"$scratch/status")}"
        ;;
    esac
}

work=(--device "$device" --iters 3) medium=(--shape 125m) large=(--shape gptj --dtype bfloat16)
tests=(-m gpu) evaluated=(--prompts 64) drawn=(--one-by-one 16) decoded=()
if [ "$device" = cpu ]; then
    small=(--layers 2 --hidden 32 --heads 2 --vocab 300 --rlayers 1 --rhidden 32 --rheads 2)
    work=(--device cpu --iters 1 --warmup 0 --threads 1 --batch 4 "${small[@]}")
    medium=() large=(--shape gptj --dtype bfloat16)
    tests=(-m "not gpu" -k "exchanges and gptj and plain") evaluated=(--prompts 2)
    drawn=(--prompts 2 --samples 2) decoded=(--new-tokens 8)
fi
train=(--ppo-epochs 1 --mini-batch 4) lora=(--lora-rank 8)

step machine 60 benchmarks/machine.py
step decoding 60 benchmarks/decoding.py "${work[@]}" "${medium[@]}" "${decoded[@]}"
step ppo 60 benchmarks/ppo_throughput.py "${work[@]}" "${medium[@]}" "${train[@]}"
step ppo_gptj_lora 120 benchmarks/ppo_throughput.py "${work[@]}" "${large[@]}" "${train[@]}" "${lora[@]}"
step decoding_gptj 90 benchmarks/decoding.py "${work[@]}" "${large[@]}" "${decoded[@]}"
mapfile -t with_tests < <(grep -rl --include='test_*.py' mark.gpu tests) # the others are not even imported
step tests 150 -m pytest -q -p json_lines -p no:cacheprovider --continue-on-collection-errors \
    "${tests[@]}" "${with_tests[@]}"
step rtp-v1 60 benchmarks/evaluate_protocol.py "${work[@]}" "${medium[@]}" "${evaluated[@]}"
step ppo_bf16_lora 45 benchmarks/ppo_throughput.py "${work[@]}" "${medium[@]}" "${train[@]}" "${lora[@]}" --bf16
PYTHONPATH="${TRL_PPO:+$TRL_PPO:}$PYTHONPATH" \
    step trl_ppo 60 benchmarks/peers/trl_1_12.py "${work[@]}" "${medium[@]}" "${train[@]}"
step drawing 60 benchmarks/evaluate_throughput.py "${work[@]}" "${medium[@]}" "${drawn[@]}" --top-p 0.9 --end 0.08
step memory 120 benchmarks/ppo_memory.py "${work[@]}" "${medium[@]}" "${train[@]}" \
    --rows full LoRA "full, optimizer in 8 bits" "LoRA, base in 4 bits"
