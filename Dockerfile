# One image for every role: `landed migrate`, `landed api`, `landed worker`, `landed sandbox`.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /srv/landed
RUN useradd --system --uid 10001 --home-dir /srv/landed landed \
    && install -d -o landed -g landed /var/lib/landed

# The dependencies change seldom, the code often: they are a layer of their own.
COPY requirements.lock ./
RUN pip install --require-hashes -r requirements.lock

# The migrations and queries in sql/ are read at run time from beside the code, so it stays where it lies.
COPY pyproject.toml README.md alembic.ini ./
COPY app app
COPY jobs jobs
COPY sql sql
RUN pip install --no-deps --no-build-isolation -e .

ENV LANDED_DATA_DIR=/var/lib/landed
USER landed
EXPOSE 8025
ENTRYPOINT ["landed"]
CMD ["api"]
