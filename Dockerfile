# The runtime on CPUs: no PyTorch, no compiler.
#   docker build --tag m2l .                              # --build-arg EXTRAS=cpu,serve for m2l serve (examples/service)
#   docker run --rm m2l                                    # which engines work here
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/data" m2l synth masks lesions --pairs
FROM python:3.13-slim AS build

WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY runtime runtime
COPY train train
COPY m2l_export m2l_export
ARG EXTRAS=cpu
# Into an environment that is copied whole; versions are those that the tests ran with.
RUN python -m venv /opt/m2l \
    && /opt/m2l/bin/python -m pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt ".[$EXTRAS]"

FROM python:3.13-slim

LABEL org.opencontainers.image.title="m2l" \
      org.opencontainers.image.description="Segmentation masks in, synthetic dermoscopic lesion images out" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/m2l /opt/m2l
ENV PATH=/opt/m2l/bin:$PATH \
    PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 m2l
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["m2l"]
CMD ["doctor"]
