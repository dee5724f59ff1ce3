# make install | quickstart | test | faults | lint | format | benchmark | results | tables | figures | picture | train-for | test-gpu
# Each target first makes .venv and installs requirements.txt, if that has not been done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
QUICK := runs/quickstart
EVALUATE = $(BIN)/python test.py evaluate --device cpu

.PHONY: install quickstart test faults lint format benchmark clean-quickstart results results-gray results-color \
	results-tables tables figures picture \
	train-for test-gpu

$(INSTALLED): requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(if $(WHEELS),--without-pip) $(VENV)
	$(if $(WHEELS),$(SHARE) && $(OFFLINE),$(PIP) -r requirements.txt)
	touch $@

# With WHEELS=FOLDER nothing is downloaded: .venv shares the packages of $(PYTHON), and gets all wheels of the folder.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
SHARE = $(PYTHON) -c 'import site; print(*site.getsitepackages(), sep="\n")' > $(VENV)/shared && \
	mv $(VENV)/shared "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
OFFLINE = $(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --no-index --no-deps $(WHEELS)/*.whl

install: $(INSTALLED)

# Trains both stages for a minute or two each, on photos that come with scikit-image. Then scores the new network and the
# shipped weights on photos that neither has seen. Needs no download and no GPU.
quickstart: $(INSTALLED) clean-quickstart
	$(BIN)/python -m data bundled --root $(QUICK)/datasets
	@echo "--- stage 1, for a minute: the quality encoder is trained to tell JPEG qualities apart, without labels"
	$(BIN)/python train_cqe.py --config configs/cqe/quickstart.yaml
	@echo "--- stage 2, for a minute and a half: the restoration network, guided by the frozen encoder"
	$(BIN)/python train_restorer.py --config configs/restorer/quickstart.yaml
	@echo "--- scores on unseen photos: the JPEG itself, the network just trained, the shipped weights"
	for weights in jpeg $(QUICK)/restorer/restorer.safetensors fast_small_gray; do \
		$(BIN)/python test.py evaluate --weights $$weights --sets $(QUICK)/datasets/bundled/test --quality 10 20 40 || exit; done
	@echo "--- a damaged photo, restored with the shipped weights"
	$(BIN)/python test.py restore $(QUICK)/datasets/damaged --output $(QUICK)/restored
	@echo "Look at $(QUICK)/restored beside $(QUICK)/datasets/damaged; curves: $(BIN)/tensorboard --logdir $(QUICK)"

clean-quickstart:
	rm -rf $(QUICK)

test: $(INSTALLED)
	$(BIN)/python -m pytest

# Trainings that are killed at random moments, whose disk fills, whose images break; a few minutes.
.PHONY: faults
faults: $(INSTALLED)
	$(BIN)/python -m pytest -m faults

# Speed of loader, scoring, training step and inference, as ratios to a baseline in the same run; results: runs/benchmark.json.
benchmark: $(INSTALLED)
	$(BIN)/python test.py benchmark

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Scores the shipped networks on the benchmarks, and writes tables and figures; see docs/results.md.
results: results-gray results-color figures

results-gray: $(INSTALLED)
	$(EVALUATE) --weights fast_small_gray --sets classic5 live1 bsds500 --quality 10..45:5 --json runs/results/fast_small_gray.json
	$(EVALUATE) --weights fast_small_gray --sets bsds500/val --quality 5..95:10 100 --json runs/results/fast_small_gray_val.json
	$(EVALUATE) --weights fast_tiny_gray --sets classic5 live1 bsds500 --quality 10..45:5 --json runs/results/fast_tiny_gray.json
	$(EVALUATE) --weights fast_tiny_gray --sets bsds500/val --quality 5..95:10 100 --json runs/results/fast_tiny_gray_val.json
	$(BIN)/python test.py document runs/results/fast_small_gray.json runs/results/fast_small_gray_val.json \
		runs/results/fast_tiny_gray.json runs/results/fast_tiny_gray_val.json

results-color: $(INSTALLED)
	$(EVALUATE) --weights fast_small_color --channels color --sets live1 bsds500 --quality 10..45:5 --json runs/results/fast_small_color.json
	$(EVALUATE) --weights fast_small_color --channels color --sets bsds500/val --quality 5..95:10 100 --json runs/results/fast_small_color_val.json
	$(EVALUATE) --weights fast_tiny_color --channels color --sets live1 bsds500 --quality 10..45:5 --json runs/results/fast_tiny_color.json
	$(EVALUATE) --weights fast_tiny_color --channels color --sets bsds500/val --quality 5..95:10 100 --json runs/results/fast_tiny_color_val.json
	$(BIN)/python test.py document runs/results/fast_small_color.json runs/results/fast_small_color_val.json \
		runs/results/fast_tiny_color.json runs/results/fast_tiny_color_val.json

# Tables 2 and 5 of the paper. Table 5 trains 18 small networks, for hours on a CPU; those that are there are left alone.
results-tables: $(INSTALLED)
	$(BIN)/python -m commands.ablation --size fast_tiny --seeds 0 1 2
	$(BIN)/python test.py table 5 --device cpu --json runs/results/table_5.json
	$(BIN)/python test.py table 2 --device cpu --weights jpeg fast_small_gray fast_tiny_gray --json runs/results/table_2.json
	$(BIN)/python test.py document runs/results/table_5.json runs/results/table_2.json

tables: $(INSTALLED)
	$(BIN)/python test.py document

# Draws the figures of docs/results.md from docs/results.
figures: $(INSTALLED)
	$(BIN)/python test.py figure gain --output runs/figures \
		--results docs/results/fast_small_gray_val.json docs/results/fast_tiny_gray_val.json \
		docs/results/fast_small_color_val.json docs/results/fast_tiny_color_val.json
	$(BIN)/python test.py figure cost --results docs/results/fast_small_gray.json docs/results/fast_tiny_gray.json --set classic5 --output runs/figures
	mkdir -p docs/figures
	cp runs/figures/figure_gain.svg runs/figures/figure_gain.json runs/figures/figure_cost.svg runs/figures/figure_cost.json docs/figures

# Makes the picture of the README. Its photo may be redistributed: it comes with scikit-image.
picture: $(INSTALLED)
	$(BIN)/python -m data bundled --root runs/picture
	$(BIN)/python test.py figure 6 --image runs/picture/bundled/test/chelsea.png --quality 10 --channels color \
		--systems jpeg fast_small_color --crop 120,80,80,80 280,100,80,80 --dots-per-inch 115 --output runs/picture
	cp runs/picture/figure_6.png docs/figure_6.png

# Trains a config of stage 2 for MINUTES, from a fresh machine with a card to published weights: docs/training.md.
# The same command goes on where it was stopped. It takes $(PYTHON) if that has all packages, else .venv.
MINUTES ?= 25
CONFIG ?= configs/restorer/fast_gray.yaml
OPTIONS ?=
NAME = $(basename $(notdir $(CONFIG)))
RUN ?= runs/train_for/$(NAME)
READY = $(eval READY := $(if $(shell $(PYTHON) train_restorer.py --help 2>/dev/null),$(PYTHON),$(BIN)/python))$(READY)

train-for:
	@test $(READY) != $(BIN)/python || $(MAKE) --no-print-directory $(INSTALLED)
	$(READY) test.py fit --output $(RUN).yaml -- --config $(CONFIG) --trainer.max_minutes $(MINUTES) $(OPTIONS)
	trap 'kill $$training' INT TERM; \
	$(READY) train_restorer.py --config $(CONFIG) --config $(RUN).yaml --trainer.run_dir $(RUN) \
		--trainer.max_minutes $(MINUTES) --trainer.save_every_minutes 1 --resume auto $(OPTIONS) & training=$$!; \
	while wait $$training; status=$$?; kill -0 $$training 2>/dev/null; do :; done; \
	if test -e $(RUN)/restorer.safetensors; then $(STORE) || exit; \
	else case $$status in 130|143) echo "no weights yet: stopped before the first validation; the same command goes on";; esac; fi; \
	exit $$status

# Stores the best weights so far, in pieces too if the file is large. A training that was stopped has some as well: the
# shell above hands a signal on, and waits until the training has saved.
STORE = $(READY) test.py publish --weights $(RUN)/restorer.safetensors --output $(RUN)/$(NAME).safetensors && \
	find $(RUN)/$(NAME).safetensors -size +16383k -exec split -b 15m {} {}.part- \;

# The tests that need a GPU: the first thing to run where there is one.
test-gpu:
	@test $(READY) != $(BIN)/python || $(MAKE) --no-print-directory $(INSTALLED)
	$(READY) -m pytest tests/test_cuda.py -v
