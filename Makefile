# make sweep: environment, data, weights, then FID against ε on Fashion-MNIST. make test: environment, then every test.
# Needs Python 3.11+ and nothing else: no root, no GPU, no account. Records go to runs/<study>, which git ignores.
# Pass overrides with ARGS="privacy.steps=120"; a second set of them needs a name of its own: ARGS="… study=short".

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOG := .wavedp/env.log
SWEEP ?= eps_grid
ARGS ?=
# Their public models come with wavedp, or their images are procedural (smoke, the smallest, downloads nothing).
NO_PUBLIC_IMAGES := eps_grid level_grid sr_models anchors smoke
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED = 0

.PHONY: sweep test env data lint clean

sweep: env $(if $(filter $(SWEEP),smoke),,fashion_mnist) $(if $(filter $(SWEEP),$(NO_PUBLIC_IMAGES)),,openclipart)
	$(BIN)/python -m sweeps.run +sweep=$(SWEEP) $(ARGS)

test: env fashion_mnist
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

env: $(VENV)/.ready

# A bare Debian has no ensurepip: then pip comes from its wheel, which can run itself.
# Pip's words are shown if it fails.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": set PYTHON=python3.11")'
	@mkdir -p .wavedp
	@echo "Installing wavedp and its packages into $(VENV): 7 GB and some minutes the first time; pip's words go to $(LOG)."
	@$(PYTHON) -m venv $(VENV) >$(LOG) 2>&1 || $(PYTHON) -m venv --without-pip $(VENV)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(MAKE) --no-print-directory pip
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]' >>$(LOG) 2>&1 \
		|| { tail -n 30 $(LOG) >&2; echo "pip failed: all it said is in $(LOG)." >&2; exit 1; }
	@touch $@

.PHONY: pip fashion_mnist openclipart
pip:
	@$(BIN)/python -c "import json, urllib.request as u; \
	f = json.load(u.urlopen('https://pypi.org/pypi/pip/json'))['urls']; \
	w = next(x['url'] for x in f if x['packagetype'] == 'bdist_wheel'); \
	u.urlretrieve(w, '.wavedp/' + w.rsplit('/', 1)[1])"
	@$(BIN)/python $$(ls .wavedp/pip-*.whl | tail -n 1)/pip install --quiet --no-index .wavedp/pip-*.whl

data: fashion_mnist openclipart
fashion_mnist openclipart: env
	@$(BIN)/python -m wavedp.data.get $@

lint: env
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

clean:
	rm -rf $(VENV) .wavedp
