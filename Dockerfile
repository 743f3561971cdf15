# The gateway with nothing beside it: no shell, no package manager, not root.
FROM docker.io/library/rust:1-bookworm AS build
WORKDIR /build

# The dependencies first, under a stub of the crate: this layer is built again only when the manifest, the lock
# file, the build script or the contract changes.
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
RUN mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked \
    && rm -r src target/release/.fingerprint/federation-gateway-*

COPY src src
RUN cargo build --release --locked --bin federation-gateway

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/federation-gateway /federation-gateway

# Nothing is loosened here: the gateway listens on loopback until it is told otherwise, and says no to a wider
# address without TLS unless the operator asked for it (see README, "Deploy").
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
# Asks the gateway over gRPC, as its callers do; FEDERATION_ADDR says where, if not on the default port.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["/federation-gateway", "health"]
ENTRYPOINT ["/federation-gateway"]
CMD ["serve"]
