# For CPUs:         docker build -t deapcache .
# For NVIDIA GPUs:  docker build -t deapcache:cuda --build-arg TORCH_BACKEND=cu130 .
#                   docker run --gpus all -v /data:/data -v /caches:/caches deapcache:cuda extract --backbone ...
FROM python:3.11-slim

# which build of torch: cpu, or one for a version of CUDA, such as cu126 or cu130
ARG TORCH_BACKEND=cpu
ARG EXTRAS=efficientnet-lite,hf,aws

WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE constraints.txt ./
COPY deapcache deapcache
COPY pipelines pipelines

# the versions that the tests ran with; those of NVIDIA's libraries follow from the build of torch
RUN grep -vE '^(nvidia-|cuda-|triton)' constraints.txt > /tmp/constraints.txt \
    && pip install --no-cache-dir uv==0.13.9 \
    && uv pip install --system --no-cache --torch-backend="${TORCH_BACKEND}" -c /tmp/constraints.txt ".[${EXTRAS}]" \
    && rm -r /src/deapcache /src/pipelines

ENV DEAPCACHE_HOME=/caches \
    DEAPCACHE_DATA=/data
RUN useradd --create-home --uid 1000 deap && mkdir -p /caches /data && chown deap /caches
USER 1000
WORKDIR /home/deap
VOLUME ["/caches"]
ENTRYPOINT ["deapcache"]
CMD ["--help"]
