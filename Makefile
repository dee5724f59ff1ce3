# make quickstart | test | lint | benchmark    (each makes .venv and installs requirements.txt where that has not been done)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
QUICK := runs/quickstart

.PHONY: quickstart test lint format benchmark clean-quickstart

$(INSTALLED): requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

# Both stages for a minute or two each on photos that come with scikit-image, then what they and the shipped weights do
# on photos that neither has seen. Needs no download and no GPU.
quickstart: $(INSTALLED) clean-quickstart
	$(BIN)/python -m data bundled --root $(QUICK)/datasets
	@echo "--- stage 1, for a minute: the quality encoder is trained to tell JPEG qualities apart, without labels"
	$(BIN)/python train_cqe.py --config configs/cqe/quickstart.yaml
	@echo "--- stage 2, for a minute and a half: the restoration network, guided by the frozen encoder"
	$(BIN)/python train_restorer.py --config configs/restorer/quickstart.yaml
	@echo "--- scores on unseen photos: the JPEG itself, the network just trained, the shipped weights"
	for weights in jpeg $(QUICK)/restorer/restorer.safetensors fast_tiny_gray; do \
		$(BIN)/python test.py evaluate --weights $$weights --sets $(QUICK)/datasets/bundled/test --quality 10 20 40 || exit; done
	@echo "--- a damaged photo, restored with the shipped weights"
	$(BIN)/python test.py restore $(QUICK)/datasets/damaged --output $(QUICK)/restored
	@echo "Look at $(QUICK)/restored beside $(QUICK)/datasets/damaged; curves: $(BIN)/tensorboard --logdir $(QUICK)"

clean-quickstart:
	rm -rf $(QUICK)

test: $(INSTALLED)
	$(BIN)/python -m pytest

# Loader, training step and inference, each as a ratio to a baseline in the same run; runs/benchmark.json has the figures.
benchmark: $(INSTALLED)
	$(BIN)/python test.py benchmark

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
