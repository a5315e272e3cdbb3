# shellcheck shell=bash
# Deno, in the two versions that count, from npm into a folder of its own. To be sourced by bash.
#
#   deno_install VERSION   print the path of that version's program, which is fetched when it is missing
#
# What is fetched stays in ${XDG_CACHE_HOME:-~/.cache}, outside the tree.

# For whoever sources this.
# shellcheck disable=SC2034
DENO_RUNTIME=2.1.4 # what Supabase's edge runtime has
# shellcheck disable=SC2034
DENO_CURRENT=2.9.6 # formats and lints, too: another version may do so otherwise

# Certificates of this machine's own, as well as Deno's.
export DENO_TLS_CA_STORE=${DENO_TLS_CA_STORE:-system,mozilla} DENO_NO_UPDATE_CHECK=1

tools_dir() { # NAME: a folder for it
  printf '%s/mahspeccy-bridge/%s\n' "${XDG_CACHE_HOME:-$HOME/.cache}" "$1"
}

# tools_npm PACKAGE@VERSION: prints the folder in which npm has installed it, once.
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
      # The program is in a package of its own: no install script has to run.
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
