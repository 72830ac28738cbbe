# The software of the workflow, as requirements.lock has it; the workflow and the data are mounted, not copied.
# snaketune.def is the same for Apptainer: what changes here changes there (tests/test_images.py compares them).
#
#   docker build -t snaketune:0.1.0 .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" -w /work snaketune:0.1.0 snakemake
ARG BASE=python:3.11-slim-bookworm
# A digest fixes the base too: --build-arg BASE=python@sha256:...
FROM ${BASE}

# git: the commit in manifest.json. gcc and libc6-dev: Triton compiles with them what torch.compile starts on a GPU.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc git libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# torch is what pip finds: on Linux the CUDA build, which runs without a GPU too.
COPY requirements.lock /opt/snaketune/requirements.lock
RUN pip install --no-cache-dir --no-compile -r /opt/snaketune/requirements.lock && pip check

# What a cluster needs besides, such as the head on Kubernetes: --build-arg APT=kubernetes-client
ARG APT=""
# hadolint ignore=DL3008
RUN if [ -n "$APT" ]; then apt-get update && apt-get install -y --no-install-recommends $APT \
        && rm -rf /var/lib/apt/lists/*; fi

# Any user may run it (docker run --user, a pod's security context), and finds a home to write to.
RUN useradd --create-home --uid 1000 snaketune && chmod 1777 /home/snaketune
ENV HOME=/home/snaketune USER=snaketune
USER 1000
WORKDIR /work
