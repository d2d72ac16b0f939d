# Server and workers on Linux; compose.yaml starts them. On a Mac the workers stay outside: MLX needs Metal.
FROM python:3.12-slim-bookworm

WORKDIR /srv/distrust
RUN pip install --no-cache-dir uv==0.13.9 \
    && useradd --create-home --uid 1000 distrust \
    && install -d -o distrust -g distrust /store /models /prefect
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-cache --extra documents --compile-bytecode
COPY . .
RUN .venv/bin/python -m storage.blas && .venv/bin/python -m compileall -q flows tasks storage blocks deployments sandbox studio

USER 1000
ENV PATH=/srv/distrust/.venv/bin:$PATH \
    DISTRUST_STORE=/store \
    HF_HOME=/models \
    PREFECT_HOME=/prefect \
    DO_NOT_TRACK=1 \
    HF_HUB_DISABLE_TELEMETRY=1
EXPOSE 4200
CMD ["python", "-m", "deployments.prefect_server", "--host", "0.0.0.0", "--port", "4200"]
