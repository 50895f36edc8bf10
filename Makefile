# Everything a newcomer needs is `make demo` and `make test`; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo demo-device compare-fashion-mnist gan-cifar10 test coverage test-matrix sanitize neon mutants tidy bench-cpu bench-gpu bench-integer integer-accuracy accuracy sensitivity rtl-report rtl-counted rtl-squarer rtl-luck rtl-fpga rtl-prove rtl-accuracy rtl-pictures docs wheel lint format env clean

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

env: $(VENV)/.dev  ## create .venv with the library and everything its tests need

# Editable: a change of Python code needs no new installation, a change of csrc/ does.
KERNELS := $(wildcard csrc/*/*.h csrc/*/*.cpp csrc/*/*.c csrc/*/*/*.h csrc/*/*/*.c)
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(KERNELS)
INSTALL = $(BIN)/python -m pip install -q -c constraints.txt

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "Python 3.10 or newer is needed: make PYTHON=python3.11"'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.dev: $(SOURCES) | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	$(BIN)/l1bn build
	touch $@ $(VENV)/.demo

$(VENV)/.demo: $(SOURCES) | $(BIN)/python
	@echo "Fetching PyTorch and what the recipes need into $(VENV) (several hundred MB to a few GB),"
	@echo "and compiling the kernels in csrc/ (about three minutes on two cores). Nothing is printed until that is done."
	$(INSTALL) -e '.[recipes]'
	touch $@

demo: $(VENV)/.demo  ## train a small ResNet with L1BN and with BN on real images, side by side
	$(BIN)/l1bn compare

# Needs clang and lld, which compile it to WebAssembly. PORT= another port.
PORT ?= 8000
DEMO = runs/demo-device
demo-device: $(DEMO)/result.json  ## a page in which a network learns what you draw, served at localhost
	$(BIN)/l1bn device web --network $(DEMO) --learn all --batch 16 --out $(DEMO)/page/index.html
	@echo "Open http://localhost:$(PORT) and draw; Ctrl-C ends it."
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory $(DEMO)/page $(PORT)

$(DEMO)/result.json: | $(VENV)/.demo
	if [ -e $(@D)/last.pt ]; then $(BIN)/l1bn train --resume $(@D); else \
	    $(BIN)/l1bn train --precision int8 --epochs 6 --no-tensorboard --out $(@D); fi

# About 40 minutes on 2 cores. DATA may be a local folder that `datasets` reads.
DATA ?= zalando-datasets/fashion_mnist
compare-fashion-mnist: $(VENV)/.demo  ## the Fashion-MNIST comparison of results/ (slow)
	$(BIN)/l1bn compare --data $(DATA) --model resnet20 --epochs 3 --seeds 3 --out runs/fashion-mnist-resnet20

# Two to three hours on a quiet core; after Ctrl-C the same target goes on. For long runs at half width, about 7 hours:
# GAN_SIZE="--width 0.5" DCGAN_STEPS= WGAN_STEPS=. DATA may be a local folder here too,
# CLASSIFIER the checkpoint of any finished l1bn train on CIFAR-10.
CLASSIFIER ?= runs/cifar10-classifier/last.pt
GAN_SIZE ?= --width 0.25 --distance-images 5000 --threads 1
DCGAN_STEPS ?= --steps 4000 --sample-every 800 --seeds 3
WGAN_STEPS ?= --steps 2000 --sample-every 400 --seeds 5
gan-cifar10: DATA = uoft-cs/cifar10
gan-cifar10: $(dir $(CLASSIFIER))result.json | $(VENV)/.demo  ## both GANs with both norms on CIFAR-10 (slow)
	$(BIN)/l1bn gan-compare --data $(DATA) --model dcgan $(GAN_SIZE) $(DCGAN_STEPS) --classifier $(CLASSIFIER) --out runs/cifar10-dcgan
	$(BIN)/l1bn gan-compare --data $(DATA) --model wgan-gp $(GAN_SIZE) $(WGAN_STEPS) --classifier $(CLASSIFIER) --out runs/cifar10-wgan-gp
	for model in dcgan wgan-gp; do \
	    $(BIN)/python -m benchmarks.gan.distance runs/cifar10-$$model || exit; \
	    $(BIN)/python -m benchmarks.gan.gradients runs/cifar10-$$model || exit; \
	    mkdir -p $(DATED)-cifar10-$$model; \
	    (cd runs/cifar10-$$model && cp results.json curves.csv distances.csv gradients.csv report.html $(CURDIR)/$(DATED)-cifar10-$$model/) || exit; \
	    $(BIN)/python -m benchmarks.gan.figures $(DATED)-cifar10-$$model runs/cifar10-$$model || exit; done

runs/cifar10-classifier/result.json: | $(VENV)/.demo
	if [ -e $(@D)/last.pt ]; then $(BIN)/l1bn train --resume $(@D); else \
	    $(BIN)/l1bn train --data $(DATA) --model resnet20 --epochs 12 --norm l2 --out $(@D); fi

test: env  ## run every test
	$(BIN)/python -m pytest -n auto

coverage: env  ## run every test and list the lines of src/ that none reaches
	$(BIN)/python -m pytest -n auto --cov --cov-report=term-missing:skip-covered --cov-report=html:build/coverage

# TORCH: oldest (the lower bound of pyproject.toml), newest, or a version.
TORCH = oldest
test-matrix:  ## run the tests of the layers in a fresh environment with another torch
	tests/packaging/matrix.sh $(PYTHON) $(TORCH)

sanitize: env  ## run the native kernels under the address and undefined-behaviour sanitizers
	tests/native/sanitize.sh portable native

neon:  ## run the native kernels for 64-bit ARM under emulation
	tests/native/neon.sh

mutants: env  ## break the formulas one by one; every break must turn the tests red
	$(BIN)/python tests/mutants.py

bench-cpu: env  ## time the native kernels against PyTorch's, and whole networks: 10 minutes, quiet
	$(BIN)/python -m benchmarks.cpu.ops
	$(BIN)/python -m benchmarks.cpu.call
	$(BIN)/python -m benchmarks.cpu.networks

# On a machine with a GPU; PYTHON may be one that has torch for it, triton, pytest and transformers.
bench-gpu:  ## test and time the GPU kernels on a GPU: 15 minutes at most
	PYTHONPATH=src $(PYTHON) benchmarks/gpu/bench.py --out $(DATED)-gpu $(if $(IMAGES),--images $(IMAGES))

bench-integer: env  ## time training in integers against float: 5 minutes, quiet
	$(BIN)/python -m benchmarks.integers.conv
	$(BIN)/python -m benchmarks.integers.norm
	$(BIN)/python -m benchmarks.integers.steps

# Hours on 2 cores; an interrupted run goes on where it was. CIFAR10 and DATA may be local folders.
CIFAR10 ?= uoft-cs/cifar10
DATED = results/$(shell date +%F)
ACCURACY = $(BIN)/python -m benchmarks.accuracy
integer-accuracy: $(VENV)/.demo  ## accuracy of integer training against float, and its ablations (slow)
	for plan in resnet20 vgg7 ablation transfer; do \
	    $(ACCURACY) integer-$$plan --data $(CIFAR10) --out $(DATED)-integer-$$plan || exit; done
	$(ACCURACY) integer-fashion --data $(DATA) --out $(DATED)-integer-fashion

accuracy: $(VENV)/.demo  ## ResNet-20 and ResNet-18 on CIFAR-10 with either norm, over seeds (slow)
	for plan in resnet20-schedules resnet20 resnet18; do \
	    $(ACCURACY) $$plan --data $(CIFAR10) --out $(DATED)-$$plan || exit; done

sensitivity: $(VENV)/.demo  ## where L1BN and BN part: conditions, terms left out, conversion, layers (slow)
	for plan in sensitivity variants converted; do \
	    $(ACCURACY) $$plan --data $(CIFAR10) --out $(DATED)-$$plan || exit; done
	$(BIN)/python -m benchmarks.accuracy.first_steps --out $(DATED)-first-steps \
	    runs/converted/first-l2-seed* runs/sensitivity/l2-relu-first-seed* $(wildcard runs/integer-resnet20/l2-seed*)
	$(BIN)/python -m benchmarks.accuracy.layer_analysis --data $(CIFAR10) --out $(DATED)-layers

LIBERTY = $(or $(L1BN_LIBERTY),$(error set L1BN_LIBERTY to a folder of cell libraries))
# One script for abc and a channel of each stimulus treats all units alike. The units of the tables at 8 bits take half an hour of
# a quiet core, at 16 bits another hour: RTL_WIDTH="8 16". RTL_SCOPE="--variants all" has every unit and its parts, hours.
RTL_SCOPE = --variants main --no-parts
RTL_WIDTH = 8
RTL_LIBRARIES = /usr/share/qflow/tech/osu018/osu018_stdcells.lib \
    $(addprefix $(LIBERTY)/, sky130_fd_sc_hd__tt_025C_1v80.lib.gz sg13g2_stdcell_typ_1p20V_25C.lib.gz \
    nangate45_typ.lib.gz gf180mcu_fd_sc_mcu9t5v0__tt_025C_5v00.lib.gz) $(sort $(wildcard $(LIBERTY)/asap7sc7p5t_*.lib.gz))
rtl-report: env  ## synthesize and measure the hardware units on six libraries: half an hour, resumable
	$(BIN)/l1bn rtl report --out benchmarks/results/rtl --width $(RTL_WIDTH) $(RTL_SCOPE) \
	    --recipes twice --channels 1 --liberty $(RTL_LIBRARIES)

rtl-counted: env  ## measure what a number of elements set by a command costs a hardware unit: minutes
	for option in no-counted counted; do \
	    $(BIN)/l1bn rtl report --no-parts --stimuli gaussian --$$option \
	    --variants l1-overlap l1-overlap-two-mult l2-overlap l2-overlap-two-mult \
	    --out benchmarks/results/rtl/counted/$$(test $$option = counted && echo with || echo without) || exit; done

rtl-squarer: env  ## measure L2BN with a folded squarer beside the other overlapped units: minutes
	$(BIN)/l1bn rtl report --recipes twice --channels 1 --no-parts --stimuli gaussian --out benchmarks/results/rtl/squarer \
	    --variants l1-overlap l1-overlap-two-mult l2-overlap l2-overlap-squarer l2-overlap-two-mult

rtl-luck: env  ## synthesize the overlapped hardware units by several scripts and names: minutes
	$(BIN)/python -m benchmarks.rtl.luck --out $(DATED)-rtl-luck

rtl-fpga: env  ## place and route the hardware units on two FPGAs, five seeds each: 15 minutes, resumable
	$(BIN)/l1bn rtl report --fpga ice40 --stimuli gaussian --devices hx8k --out $(DATED)-rtl-fpga/hx8k
	$(BIN)/l1bn rtl report --fpga ice40 --stimuli gaussian --devices up5k-dsp --no-parts \
	    --variants l1-overlap l2-overlap l2-overlap-squarer --out $(DATED)-rtl-fpga/up5k-dsp
	$(BIN)/l1bn rtl report --fpga ice40 --stimuli gaussian --devices up5k --no-parts \
	    --variants l1-overlap l2-overlap-squarer --out $(DATED)-rtl-fpga/up5k

# The reciprocal and the root are decided on the smallest units only: at 8 bits they take hours.
rtl-prove: env  ## prove what holds of the hardware units for every input: minutes
	for unit in "" "--overlap" "--overlap --multipliers 2" "--norm l2" "--norm l2 --overlap --passes 1 --multipliers 2" "--counted" "--counted --norm l2"; do \
	    $(BIN)/l1bn rtl prove $$unit || exit; \
	    $(BIN)/l1bn rtl prove --width 8 --elements 256 --no-bounded $$unit || exit; done

rtl-accuracy: env  ## train with one-pass statistics, and see what they cost
	$(BIN)/python -m benchmarks.rtl.one_pass_training

rtl-pictures: env  ## draw the pictures of docs/silicon/unit.md
	$(BIN)/python -m benchmarks.rtl.pictures
	$(BIN)/python -m benchmarks.rtl.timeline

# Strict: a warning is an error. Needs no network, neither to build nor to read.
docs: env  ## build the documentation site in build/site
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -b html -d build/doctrees docs build/site

# LIBRARY=path/to/libl1bn.so packs a library that is built already.
LIBRARY =
wheel: env  ## build the wheel and the source distribution into dist/, checked for manylinux
	rm -rf dist build/wheel
	$(BIN)/python -m build --outdir build/wheel $(if $(LIBRARY),-C cmake.define.L1BN_PREBUILT=$(LIBRARY))
	PATH=$(CURDIR)/$(BIN):$$PATH auditwheel repair --plat auto --wheel-dir dist build/wheel/*.whl
	cp build/wheel/*.tar.gz dist/

# Each source once: kernels for the instruction set with the most code of its own. The compiler, which reads the headers that
# clang-tidy leaves out, refuses C casts.
TIDY = $(BIN)/clang-tidy --quiet --config-file=.clang-tidy
TIDY_FLAGS = -std=gnu++17 -Icsrc -fopenmp -Wall -Wextra
# The autograd node is left out: torch's headers take clang-tidy minutes.
TIDY_SOURCES = $(filter-out %/kernels.cpp csrc/torch/%, $(wildcard csrc/*/*.cpp))
TIDY_KERNELS = $(wildcard csrc/*/kernels.cpp)
CASTS = $(CXX) -fsyntax-only -Wno-psabi -Werror=old-style-cast
ifneq ($(filter x86_64 amd64,$(shell uname -m)),)
TIDY_X86 = -DL1BN_X86 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mpopcnt -mavx512bf16 -mavx512vnni
endif
tidy: env  ## static checks of the native kernels: half a minute
	$(TIDY) $(TIDY_SOURCES) -- $(TIDY_FLAGS) $(TIDY_X86)
	$(TIDY) $(TIDY_KERNELS) -- $(TIDY_FLAGS) $(TIDY_X86) -DL1BN_ISA=tidy
	$(CASTS) $(TIDY_FLAGS) $(TIDY_X86) $(TIDY_SOURCES)
	$(CASTS) $(TIDY_FLAGS) $(TIDY_X86) -DL1BN_ISA=tidy $(TIDY_KERNELS)
	$(CASTS) $(TIDY_FLAGS) -DL1BN_ISA=tidy $(TIDY_KERNELS)

lint: env tidy  ## formatting, lint, types, import contracts
	$(BIN)/clang-format --dry-run -Werror $(KERNELS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: env  ## format the code
	$(BIN)/clang-format -i $(KERNELS)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
