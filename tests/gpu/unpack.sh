# Sourced on the lent machine, in the tree's root, once all pieces of tests/gpu/pack.py lie in /tmp/gpu (or $GPU).
# The FID network goes where wavedp finds it by itself, or to the file $INCEPTION.
GPU=${GPU:-/tmp/gpu}
cat "$GPU"/piece.* | tar -x -C "$GPU" &&
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$GPU/site" "$GPU"/wheels/*.whl &&
export PYTHONPATH="$GPU/site:$PWD" PYTHONUNBUFFERED=1 &&
python3 tests/gpu/pack.py --restore "$GPU" ${INCEPTION:+--to "$INCEPTION"}
