# The command line with its own data sets, on the CPU:
#   docker build -t stratdiff .
#   docker run --rm -v "$PWD:/work" -v stratdiff-cache:/cache stratdiff train --dataset my.hdf5
FROM python:3.12-slim-bookworm

# MuJoCo draws without a screen through EGL.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libegl1 libgl1 libgl1-mesa-dri \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
ARG EXTRAS=minari,onnx
RUN pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]"

# A named volume takes over the owner of the folder where it is mounted first.
RUN useradd --create-home --uid 1000 stratdiff && install -d -o stratdiff /work /cache
USER 1000
ENV MUJOCO_GL=egl STRATDIFF_CACHE=/cache
WORKDIR /work
VOLUME ["/work", "/cache"]
ENTRYPOINT ["stratdiff"]
