# syntax=docker/dockerfile:1

# Builds the broker. Dependencies are cached as long as the manifests stay the same.
FROM docker.io/library/rust:1-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock rustfmt.toml clippy.toml ./
COPY proto proto
COPY client client
COPY broker broker
COPY tests tests
COPY benches benches
# Static, so that nothing else is needed in the image.
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --target x86_64-unknown-linux-gnu -p statecast-broker \
    && mkdir -p /out/data \
    && cp target/x86_64-unknown-linux-gnu/release/statecast /out/statecast

# What every image has in common.
FROM scratch AS base
USER 65532:65532
ENV STATECAST_DATA_DIR=/data \
    STATECAST_LISTEN=0.0.0.0:7420 \
    STATECAST_HTTP_LISTEN=0.0.0.0:7421
EXPOSE 7420 7421
VOLUME /data
HEALTHCHECK --interval=5s --timeout=3s --start-period=2s --retries=3 CMD ["/statecast", "health"]
ENTRYPOINT ["/statecast"]
CMD ["serve"]

# Packs a static binary that was built outside: deploy/pack.sh puts it into
# deploy/packed. Needs no image registry.
FROM base AS packed
COPY --chown=65532:65532 deploy/packed/ /

# The default: built here.
FROM base AS release
COPY --from=build --chown=65532:65532 /out/ /
