# What every image has in common. Nothing but the static binary is in it.
FROM scratch AS base
USER 65532:65532
ENV STATECAST_DATA_DIR=/data \
    STATECAST_LISTEN=0.0.0.0:7420 \
    STATECAST_HTTP_LISTEN=0.0.0.0:7421
EXPOSE 7420 7421
HEALTHCHECK --interval=2s --timeout=3s --start-period=2s --retries=3 CMD ["/statecast", "health"]
ENTRYPOINT ["/statecast"]
CMD ["serve"]

# Packs a binary that deploy/pack.sh has built outside: needs no image registry.
FROM base AS packed
COPY --chown=65532:65532 deploy/packed/ /
VOLUME /data

# Builds the broker. Dependencies are cached from build to build.
FROM docker.io/library/rust:1-bookworm AS build
WORKDIR /src
COPY . .
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    target="$(rustc -vV | sed -n 's/^host: //p')" \
    && cargo build --release --locked --target "$target" -p statecast-broker \
    && mkdir -p /out/data \
    && cp "target/$target/release/statecast" /out/statecast

# The default: built here.
FROM base AS release
COPY --from=build --chown=65532:65532 /out/ /
VOLUME /data
