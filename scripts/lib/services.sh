# shellcheck shell=bash
# Private Postgres and RabbitMQ servers for one run of a script. To be sourced by bash.
#
#   services_trap          stop the servers however the script ends
#   services_prepare       make the run's folder, install what is missing; services_start does it if nobody has
#   services_start         start what DATABASE_URL / AMQP_URL do not already name; export the URLs
#   services_run CMD ...   run a command so that a signal to this script reaches it first
#   services_stop          end the servers, remove their folder
#
# A server that DATABASE_URL or AMQP_URL names is used as it is and left alone. Otherwise one is
# started on ports found free, bound to 127.0.0.1, with its data in a fresh folder under
# ${TMPDIR:-/tmp}, so any number of runs live side by side. fsync is off: the data is thrown away.
#
# Every server has a session of its own, so that Ctrl-C in a terminal reaches the script and not the
# servers, and is disowned, so that bash does not comment on its end. Processes are ended by their id,
# never by a name.

SERVICES_DIR=""            # the run's folder, once there is one
SERVICES_DEADLINE_SECS=120 # for one server to become ready; takes about 5 s on an idle machine
SERVICES_CHILD=""          # what services_run is running
SERVICES_SIGNALS=0         # signals passed on to it so far
_services_leader_first=""
_services_held="" # yes while a signal has to wait
_services_pending=""
_services_postgres_pid=""
_services_rabbitmq_pid=""
_services_epmd_pid=""
_services_ports=" " # given out so far
_services_port=""   # the answer of _services_pick_port

_services_say() { printf 'services: %s\n' "$*" >&2; }

# --- what is installed -----------------------------------------------------------------------

_services_postgres_bin() { # the newest version's server binaries
  local dir
  while IFS= read -r dir; do
    if [[ -x $dir/initdb && -x $dir/postgres ]]; then
      printf '%s\n' "$dir"
      return 0
    fi
  done < <(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV)
  return 1
}

# Not /usr/sbin/rabbitmq-server: Debian's wrapper changes folder and user, and drops arguments.
_services_rabbitmq_bin=/usr/lib/rabbitmq/bin/rabbitmq-server

_services_install() { # PACKAGE ...
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    _services_say "missing: $*. Either"
    _services_say "  - install them:  apt-get install $*"
    _services_say "  - or use Docker: docker compose up -d --wait, then set DATABASE_URL and AMQP_URL (README, Try it)"
    return 1
  fi

  # Packages bring a server of their own, which must not start: it would take the well-known ports.
  local policy=/usr/sbin/policy-rc.d clusters=/etc/postgresql-common/createcluster.conf
  local made_policy="" made_clusters="" status=0
  _services_hold # dpkg does not survive a signal in good order, so a signal waits for it
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    made_policy=yes
  fi
  if [[ " $* " == *" postgresql "* && ! -e $clusters ]]; then
    mkdir -p "${clusters%/*}"
    printf 'create_main_cluster = false\n' >"$clusters"
    made_clusters=yes
  fi

  _services_say "installing $* with apt-get"
  local apt=(setsid --wait env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1
    apt-get -q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)
  local log=$SERVICES_DIR/apt.log
  { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "$@"; } \
    </dev/null >"$log" 2>&1 || status=$?

  [[ -z $made_policy ]] || rm -f "$policy"
  if [[ -n $made_clusters && -e /usr/share/postgresql-common/createcluster.conf ]]; then
    cp /usr/share/postgresql-common/createcluster.conf "$clusters"
    rm -f "$clusters.ucf-dist"
  elif [[ -n $made_clusters ]]; then
    rm -f "$clusters"
  fi
  if ((status != 0)); then
    tail -n 40 "$log" >&2
    _services_say "apt-get failed (exit code $status)"
  fi
  _services_release
  return "$status"
}

_services_missing() { # the packages this run needs and does not have
  if [[ -z ${DATABASE_URL:-} ]] && ! _services_postgres_bin >/dev/null; then echo postgresql; fi
  if [[ -z ${AMQP_URL:-} && ! -x $_services_rabbitmq_bin ]]; then echo rabbitmq-server; fi
  if [[ -n ${services_for_tests:-} ]]; then
    command -v pgbouncer >/dev/null || [[ -x /usr/sbin/pgbouncer ]] || echo pgbouncer
    # Tests of a cut network make namespaces.
    command -v ip >/dev/null || [[ -x /usr/sbin/ip ]] || echo iproute2
    # Debian's Python has venv in a package of its own.
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
  fi
  if [[ -n ${services_for_app:-} ]]; then
    # npm brings Deno, and Chromium comes without a font.
    command -v npm >/dev/null || echo npm
    command -v chromium >/dev/null || echo chromium
    [[ -d /usr/share/fonts/truetype/dejavu ]] || echo fonts-dejavu-core
  fi
}

_services_ensure_installed() {
  local missing lock
  missing=$(_services_missing)
  [[ -n $missing ]] || return 0
  # One run installs; another one of the same checkout waits, and then finds nothing missing.
  exec {lock}<"${BASH_SOURCE[0]}"
  flock "$lock"
  missing=$(_services_missing)
  local status=0
  # shellcheck disable=SC2086 # package names, one a word
  [[ -z $missing ]] || _services_install $missing || status=$?
  exec {lock}<&-
  return "$status"
}

# --- processes, ports, folders ---------------------------------------------------------------

_services_stat() { # PID: sets stat=(state parent ... ); fails when there is no such process
  local line
  { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
  read -r -a stat <<<"${line##*) }" # the name before it, in brackets, may hold anything
}

_services_group() { # GROUP: sets group=(PID ...), the living processes of a process group
  local dir stat
  group=()
  for dir in /proc/[0-9]*; do
    if _services_stat "${dir#/proc/}" && [[ ${stat[2]} == "$1" && ${stat[0]} != Z ]]; then
      group+=("${dir#/proc/}")
    fi
  done
}

_services_alive() { # PID
  local stat
  [[ -n $1 ]] && _services_stat "$1" && [[ ${stat[0]} != Z ]]
}

_services_tree() { # PID: sets tree=(PID:BIRTH ...), the process and all its descendants
  local dir pid stat grown=yes
  local -A parent=() birth=() member=()
  for dir in /proc/[0-9]*; do
    pid=${dir#/proc/}
    _services_stat "$pid" || continue
    parent[$pid]=${stat[1]} birth[$pid]=${stat[19]}
  done
  [[ -n ${parent[$1]:-} ]] || return 0
  member[$1]=yes tree=("$1:${birth[$1]}")
  while [[ -n $grown ]]; do
    grown=""
    for pid in "${!parent[@]}"; do
      if [[ -z ${member[$pid]:-} && -n ${member[${parent[$pid]}]:-} ]]; then
        member[$pid]=yes tree+=("$pid:${birth[$pid]}") grown=yes
      fi
    done
  done
}

_services_listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Below the range that the kernel hands to outgoing connections. A port that somebody takes between
# this check and the server's bind makes the server fail, and _services_boot try again.
_services_pick_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    [[ $_services_ports != *" $port "* ]] || continue
    if ! _services_listening "$port"; then
      _services_ports+="$port "
      _services_port=$port
      return 0
    fi
  done
}

_services_as() { # USER SIGNAL: sets the array `as`, a prefix that makes a command run as the server's user
  # --pdeathsig: should this script be killed outright, the servers still go.
  as=(setpriv --pdeathsig "$2")
  if [[ $(id -u) == 0 ]]; then as+=(--reuid "$1" --regid "$1" --init-groups); fi
  as+=(--)
}

_services_spawn() { # VARIABLE CMD ...: a server; its process id goes to VARIABLE. Reads as, dir, log
  local variable=$1
  shift
  _services_hold
  # shellcheck disable=SC2154 # the caller's
  (cd "$dir" && exec setsid "${as[@]}" "$@") </dev/null >>"$log" 2>&1 &
  printf -v "$variable" %s "$!"
  disown "$!"
  _services_release
}

_services_make_dir() {
  local base
  for base in "${TMPDIR:-/tmp}" /tmp /var/tmp; do
    # The servers' users must be able to get in.
    if [[ $(id -u) == 0 ]] && ! setpriv --reuid nobody --clear-groups -- test -x "$base"; then
      continue
    fi
    SERVICES_DIR=$(mktemp -d "$base/mahspeccy-bridge.XXXXXXXX") && chmod 711 "$SERVICES_DIR" && return 0
  done
  _services_say "no usable folder for temporary files"
  return 1
}

_services_own_dir() { # NAME USER: an empty private folder of that user's
  rm -rf "${SERVICES_DIR:?}/$1"
  mkdir -m 700 "$SERVICES_DIR/$1"
  if [[ $(id -u) == 0 ]]; then chown "$2:" "$SERVICES_DIR/$1"; fi
}

# --- Postgres --------------------------------------------------------------------------------

_services_postgres_launch() {
  local dir=$SERVICES_DIR/postgres log=$SERVICES_DIR/postgres.log bin as port
  bin=$(_services_postgres_bin)
  _services_pick_port
  port=$_services_port
  _services_as postgres INT
  _services_own_dir postgres postgres
  (cd "$dir" && exec "${as[@]}" env -i PATH=/usr/bin:/bin LANG=C.UTF-8 "$bin/initdb" -D "$dir/data" \
    -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync) >"$log" 2>&1 || return 1
  _services_spawn _services_postgres_pid env -i PATH=/usr/bin:/bin LANG=C.UTF-8 "$bin/postgres" \
    -D "$dir/data" -p "$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
    -c max_connections=400 -c wal_level=logical -c fsync=off -c full_page_writes=off
  _services_postgres_url=postgres://postgres@127.0.0.1:$port/postgres
}

# The last line of postmaster.pid, in our own folder: nobody else's server can be mistaken for ours.
_services_postgres_ready() {
  [[ $(tail -n 1 "$SERVICES_DIR/postgres/data/postmaster.pid" 2>/dev/null) == ready* ]]
}

# --- RabbitMQ --------------------------------------------------------------------------------

_services_rabbitmq_launch() {
  local dir=$SERVICES_DIR/rabbitmq log=$SERVICES_DIR/rabbitmq.log as amqp management distribution epmd
  local deadline=$((SECONDS + 10))
  _services_pick_port && amqp=$_services_port
  _services_pick_port && management=$_services_port
  _services_pick_port && distribution=$_services_port
  _services_pick_port && epmd=$_services_port
  _services_as rabbitmq KILL
  _services_own_dir rabbitmq rabbitmq
  echo '[rabbitmq_management].' >"$dir/enabled_plugins"
  cat >"$dir/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$amqp
management.tcp.ip = 127.0.0.1
management.tcp.port = $management
distribution.listener.interface = 127.0.0.1
distribution.listener.port_range.min = $distribution
distribution.listener.port_range.max = $distribution
disk_free_limit.absolute = 50MB
CONF
  if [[ $(id -u) == 0 ]]; then chown rabbitmq: "$dir"/*; fi

  # Erlang would start this one by itself, as a daemon that outlives the broker.
  : >"$log"
  _services_spawn _services_epmd_pid epmd -port "$epmd" -address 127.0.0.1
  until _services_listening "$epmd"; do
    _services_alive "$_services_epmd_pid" && ((SECONDS < deadline)) || return 1
    sleep 0.02
  done

  # RABBITMQ_ALLOW_INPUT makes the script become the broker instead of being its parent.
  _services_spawn _services_rabbitmq_pid env -i PATH=/usr/sbin:/usr/bin:/bin LANG=C.UTF-8 HOME="$dir" \
    ERL_EPMD_PORT="$epmd" ERL_EPMD_ADDRESS=127.0.0.1 \
    RABBITMQ_NODENAME="bridge$amqp@localhost" RABBITMQ_CONF_ENV_FILE=/dev/null \
    RABBITMQ_CONFIG_FILE="$dir/rabbitmq.conf" RABBITMQ_ENABLED_PLUGINS_FILE="$dir/enabled_plugins" \
    RABBITMQ_MNESIA_BASE="$dir/data" RABBITMQ_LOG_BASE="$dir" RABBITMQ_LOGS=- RABBITMQ_PID_FILE="$dir/pid" \
    RABBITMQ_ALLOW_INPUT=1 "$_services_rabbitmq_bin" -noinput
  _services_amqp_url=amqp://guest:guest@127.0.0.1:$amqp/%2f
  _services_management_url=http://guest:guest@127.0.0.1:$management
}

# Logged once every listener is open; the log is our own broker's.
_services_rabbitmq_ready() { grep -q 'Server startup complete' "$SERVICES_DIR/rabbitmq.log"; }

# --- start and stop --------------------------------------------------------------------------

_services_wait() { # NAME: until it is ready; fails when it has died or the deadline has passed
  local deadline=$((SECONDS + SERVICES_DEADLINE_SECS)) pid=_services_$1_pid
  until "_services_$1_ready"; do
    _services_alive "${!pid}" && ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

_services_boot() { # NAME: makes ready what was launched; launches it anew if it lost a port to another
  local name=$1 log=$SERVICES_DIR/$1.log attempt
  for attempt in 1 2 3 4 5; do
    if "_services_${name}_launched" && _services_wait "$name"; then return 0; fi
    grep -qiE 'address already in use|eaddrinuse|port_in_use|already in use|nodistribution' "$log" || break
    _services_say "$name lost a port to another program (attempt $attempt)"
    "_services_${name}_end"
    eval "_services_${name}_launch" || true
  done
  _services_say "$name did not start; its log ends with:"
  tail -n 60 "$log" >&2
  return 1
}

_services_postgres_launched() { [[ -n $_services_postgres_pid ]]; }
_services_rabbitmq_launched() { [[ -n $_services_rabbitmq_pid ]]; }

_services_end() { # PID SIGNAL: asks a server, waits until it and its children are gone, insists if need be
  local tree=() left stat entry deadline=$((SECONDS + 10))
  [[ -n $1 ]] || return 0
  _services_tree "$1"
  kill -s "$2" "$1" 2>/dev/null || true
  while :; do
    left=()
    for entry in "${tree[@]}"; do
      if _services_stat "${entry%:*}" && [[ ${stat[0]} != Z && ${stat[19]} == "${entry#*:}" ]]; then
        left+=("${entry%:*}")
      fi
    done
    ((${#left[@]} > 0)) || break
    if ((SECONDS >= deadline)); then kill -s KILL "${left[@]}" 2>/dev/null || true; fi
    sleep 0.05
  done
}

_services_postgres_end() {
  _services_end "$_services_postgres_pid" INT # a "fast" stop, which does not wait for clients
  _services_postgres_pid=""
}

_services_rabbitmq_end() {
  _services_end "$_services_rabbitmq_pid" KILL # an orderly stop takes seconds, to save data nobody keeps
  _services_rabbitmq_pid=""
  _services_end "$_services_epmd_pid" KILL
  _services_epmd_pid=""
}

services_prepare() {
  [[ -z $SERVICES_DIR ]] || return 0
  _services_make_dir || return 1
  [[ -n ${DATABASE_URL:-} && -n ${AMQP_URL:-} ]] || _services_ensure_installed
}

services_start() {
  local need_postgres="" need_rabbitmq=""
  [[ -n ${DATABASE_URL:-} ]] || need_postgres=yes
  [[ -n ${AMQP_URL:-} ]] || need_rabbitmq=yes
  services_prepare || return 1

  # Side by side: the broker boots while Postgres makes its data folder.
  if [[ -n $need_rabbitmq ]]; then _services_rabbitmq_launch || true; fi
  if [[ -n $need_postgres ]]; then _services_postgres_launch || true; fi
  if [[ -n $need_postgres ]]; then
    _services_boot postgres || return 1
    export DATABASE_URL=$_services_postgres_url
    _services_say "Postgres is ready: $DATABASE_URL"
  fi
  if [[ -n $need_rabbitmq ]]; then
    _services_boot rabbitmq || return 1
    export AMQP_URL=$_services_amqp_url AMQP_MANAGEMENT_URL=$_services_management_url
    _services_say "RabbitMQ is ready: $AMQP_URL, management $AMQP_MANAGEMENT_URL"
  fi
}

services_stop() {
  trap '' INT TERM HUP # a second Ctrl-C must not leave half of it behind
  if [[ -n $_services_postgres_pid ]]; then kill -s INT "$_services_postgres_pid" 2>/dev/null || true; fi
  _services_rabbitmq_end
  _services_postgres_end
  if [[ -n $SERVICES_DIR ]]; then
    rm -rf "$SERVICES_DIR"
    SERVICES_DIR=""
  fi
}

# --- signals ---------------------------------------------------------------------------------

services_trap() {
  trap services_stop EXIT
  trap '_services_signal INT 130' INT
  trap '_services_signal TERM 143' TERM
  trap '_services_signal HUP 129' HUP
}

# Between the start of a process and the note of its id, a signal has to wait.
_services_hold() { _services_held=yes; }
_services_release() {
  local pending=$_services_pending
  _services_held="" _services_pending=""
  # shellcheck disable=SC2086 # a signal and an exit code
  [[ -z $pending ]] || _services_signal $pending
}

_services_signal() { # SIGNAL EXIT_CODE
  if [[ -n $_services_held ]]; then
    _services_pending="$1 $2"
    return 0
  fi
  [[ -n $SERVICES_CHILD ]] || exit "$2"
  SERVICES_SIGNALS=$((SERVICES_SIGNALS + 1))
  if ((SERVICES_SIGNALS == 1)) && [[ -n $_services_leader_first ]]; then
    kill -s "$1" "$SERVICES_CHILD" 2>/dev/null || true
  else
    kill -s "$1" -- "-$SERVICES_CHILD" 2>/dev/null || true
  fi
}

# Runs a command in a process group of its own and returns its exit code; whatever it leaves behind
# in that group is ended. A signal to this script is passed on to the group, and once the command has
# ended, so does the script. With --leader-first, the first signal goes to the command alone, which
# then stops its own children in good order.
services_run() { # [--leader-first] CMD ...
  local status=0 seen group deadline signal=TERM
  _services_leader_first=""
  if [[ $1 == --leader-first ]]; then
    _services_leader_first=yes
    shift
  fi
  SERVICES_SIGNALS=0
  _services_hold
  set -m
  "$@" </dev/null &
  SERVICES_CHILD=$!
  set +m
  _services_release
  while :; do
    seen=$SERVICES_SIGNALS
    status=0
    wait "$SERVICES_CHILD" || status=$?
    ((seen != SERVICES_SIGNALS)) || break # else it was the signal that ended the wait
  done
  deadline=$((SECONDS + 10))
  while _services_group "$SERVICES_CHILD" && ((${#group[@]} > 0)); do
    ((SECONDS < deadline)) || signal=KILL
    [[ -z $signal ]] || kill -s "$signal" "${group[@]}" 2>/dev/null || true
    signal=""
    sleep 0.05
  done
  SERVICES_CHILD=""
  ((SERVICES_SIGNALS == 0)) || exit "$status"
  return "$status"
}
