# shellcheck shell=bash
# Installs Deno and other programs from npm, each into a folder of its own. To be sourced by bash.
#
#   deno_install VERSION        prints the path of that version of Deno
#   tools_npm PACKAGE@VERSION   prints the folder with that version of a package
#
# Both download what is missing to ${XDG_CACHE_HOME:-~/.cache}, outside the repository.

# Scripts that source this file use the variables.
# shellcheck disable=SC2034
DENO_RUNTIME=2.1.4 # Supabase's edge runtime is compatible with it
# shellcheck disable=SC2034
DENO_CURRENT=2.9.6 # also formats and lints, which other versions may do differently

# Trusts the certificates of this machine as well as Deno's.
export DENO_TLS_CA_STORE=${DENO_TLS_CA_STORE:-system,mozilla} DENO_NO_UPDATE_CHECK=1

tools_dir() { # NAME: prints its folder
  printf '%s/mahspeccy-bridge/%s\n' "${XDG_CACHE_HOME:-$HOME/.cache}" "$1"
}

# Several processes may call this at once: the first one installs.
tools_npm() {
  local dir lock
  dir=$(tools_dir "${1//\//-}")
  if [[ ! -d $dir ]]; then
    command -v npm >/dev/null || return 1
    mkdir -p "${dir%/*}"
    exec {lock}>"$dir.lock"
    flock "$lock"
    if [[ ! -d $dir ]]; then
      rm -rf "$dir.new"
      mkdir "$dir.new"
      # The programs are in packages of their own, so no install script has to run.
      (cd "$dir.new" && echo '{"private":true}' >package.json &&
        npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts "$1") >&2 || return 1
      mv "$dir.new" "$dir"
    fi
    exec {lock}>&-
  fi
  printf '%s\n' "$dir"
}

deno_install() { # VERSION
  local dir program
  if command -v deno >/dev/null && [[ $(deno --version 2>/dev/null) == "deno $1 "* ]]; then
    command -v deno
    return 0
  fi
  dir=$(tools_npm "deno@$1") || return 1
  for program in "$dir"/node_modules/@deno/*/deno; do
    if [[ -x $program ]]; then
      printf '%s\n' "$program"
      return 0
    fi
  done
  return 1
}
