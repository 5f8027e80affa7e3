# Sourced after tests/gpu/unpack.sh: run the plan for so many minutes, or go on with it; leave what is done in $OUT.
#     . tests/gpu/study.sh MINUTES
# records.tar is the study's folder as python -m sweeps.collect writes it; weights.KEY.?? are the parts of a tar of
# one release, two releases a call, since little more comes back from one: cat them, then python -m wavedp.store unpack.
GPU=${GPU:-/tmp/gpu} STORE=${STORE:-/tmp/store}
python3 -m wavedp.run "$GPU/plan.json" --store "$STORE" --home "$GPU/data" --device "${DEVICE:-cuda}" --minutes "$1"
STATUS=$?
python3 -m sweeps.collect "$GPU/plan.json" --store "$STORE" --home "$GPU/data" --results "$GPU/runs"
tar -cf "$OUT/records.tar" -C "$GPU/runs" .
touch "$GPU/fetched"
for KEY in $(ls "$STORE/private_fit" 2>/dev/null | grep -v -F -f "$GPU/fetched" | head -n 2); do
    python3 -m wavedp.store pack "$GPU/weights.tar" --store "$STORE" --stages private_fit --keys "$KEY" &&
        split -b 12M -d "$GPU/weights.tar" "$OUT/weights.${KEY%"${KEY#????????}"}." && echo "$KEY" >> "$GPU/fetched"
done
ls -l "$OUT"
(exit $STATUS)
