# syntax=docker/dockerfile:1

# The version of rust-toolchain.toml, which stays out of the image: rustup would install from it.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /build

# The dependencies alone, in a layer that lives until the manifest or the lock file changes. Cargo
# does not miss the other targets as long as Cargo.toml gives the path of each that it names.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && echo 'fn main() {}' >src/main.rs \
    && touch src/lib.rs \
    && cargo build --locked --release --bin mahspeccy-bridge \
    && rm -r src

# `touch`: cargo goes by time, and the copied files may be older than the stand-ins above.
COPY src src
COPY migrations migrations
RUN touch src/main.rs src/lib.rs \
    && cargo build --locked --release --bin mahspeccy-bridge

FROM debian:bookworm-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /build/target/release/mahspeccy-bridge /usr/local/bin/mahspeccy-bridge
USER 10001:10001
EXPOSE 3000
ENTRYPOINT ["/usr/local/bin/mahspeccy-bridge"]
CMD ["worker"]
