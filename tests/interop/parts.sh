# Sourced by the scripts of this folder: installing clients and Java servers, starting and stopping servers, counting checks.
#
#   cache    packages and classes, kept between runs
#   work     everything of this run: data directories, logs, results; removed at the end unless KEEP=1
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/telstar-interop
servers_version=${SERVERS_VERSION:-5.5.0}
mkdir -p "$cache"
work=$(mktemp -d "${TMPDIR:-/tmp}/telstar-interop.XXXXXX")
results=$work/results
mkdir "$results"
export PYTHONDONTWRITEBYTECODE=1
suite_limit_s=300
small_jvm=(-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData)

# ---- installing: each does nothing when its work is already done

once() { # STAMP COMMAND...
  local stamp=$cache/.done-$1; shift
  [ -e "$stamp" ] && return
  installing "$@"
  touch "$stamp"
}

installing() { # COMMAND...
  "$@" > "$work/install.log" 2>&1 || { echo "cannot install: $*" >&2; tail -20 "$work/install.log" >&2; exit 2; }
}

fetch_jars() { # FOLDER ARTIFACT:VERSION...
  local folder=$cache/$1 dependencies="" artifact; shift
  for artifact in "$@"; do
    dependencies+="<dependency><groupId>org.apache.rocketmq</groupId><artifactId>${artifact%:*}</artifactId><version>${artifact#*:}</version></dependency>"
  done
  rm -rf "$folder"; mkdir -p "$folder"
  echo "<project><modelVersion>4.0.0</modelVersion><groupId>interop</groupId><artifactId>interop</artifactId><version>1</version>
    <packaging>pom</packaging><dependencies>$dependencies</dependencies></project>" > "$folder/pom.xml"
  mvn -q -B -f "$folder/pom.xml" dependency:copy-dependencies -DincludeScope=runtime "-DoutputDirectory=$folder"
}

install_java_client() { # VERSION: jars, and the classes of this folder compiled against them
  once "client-$1" fetch_jars "client-$1" "rocketmq-client:$1"
  [ -d "$(classes "$1")" ] || installing compile_java "$1"
}

# The sources are part of the name: checkouts that differ share the cache.
classes() { # VERSION
  echo "$cache/classes-$1-$(cat "$here"/java/*.java | sha256sum | cut -c1-12)"
}

compile_java() {
  local made
  made=$(classes "$1")
  rm -rf "$made.$$"
  javac -nowarn -cp "$cache/client-$1/*" -d "$made.$$" "$here"/java/*.java || return
  mv -T "$made.$$" "$made" || rm -rf "$made.$$" # another run was faster
}

install_java_servers() {
  once "servers-$servers_version" fetch_jars "servers-$servers_version" \
    "rocketmq-namesrv:$servers_version" "rocketmq-broker:$servers_version" "rocketmq-tools:$servers_version"
}

install_cpp_client() {
  make_environment() { python3 -m venv --clear "$cache/cpp" && "$cache/cpp/bin/pip" install rocketmq==0.4.4; }
  once cpp-0.4.4 make_environment
}

# The program of folder go, named by its sources as the classes are.
go_program() {
  echo "$cache/go-$(cat "$here"/go/* | sha256sum | cut -c1-12)"
}

install_go_client() {
  [ -x "$(go_program)" ] || installing compile_go
}

compile_go() {
  local made
  made=$(go_program)
  (cd "$here/go" && CGO_ENABLED=0 go build -buildvcs=false -o "$made.$$" .) || return
  mv -T "$made.$$" "$made"
}

# ---- clients

java_client() { # VERSION CLASS ARGUMENT...; clients keep logs and broadcast offsets below user.home
  local version=$1; shift
  timeout -k 5 "$suite_limit_s" java -Xmx256m "${small_jvm[@]}" "-Duser.home=$work" "-Djava.io.tmpdir=$work" "-Dadmin=$here/admin.py" \
    -cp "$(classes "$version"):$cache/client-$version/*" "$@"
}

cpp_client() { HOME=$work timeout -k 5 "$suite_limit_s" "$cache/cpp/bin/python" "$here/cpp/suite.py" "$@"; }

go_client() { HOME=$work ADMIN=$here/admin.py timeout -k 5 "$suite_limit_s" "$(go_program)" "$@"; }

admin() { python3 "$here/admin.py" "$@"; }

# ---- servers. Each `start_…` leaves the process id in $started; `stop` ends it and gives its exit status.

telstar=${TELSTAR:-$root/target/release/telstar}

# These two alone know Telstar's command line.
start_telstar() { # both|broker|name-server DIR NS_PORT BROKER_PORT BROKER_NAME
  local command
  case $1 in
    both) command=(start --data-dir "$2" --name-server-listen "127.0.0.1:$3" --listen "127.0.0.1:$4" --advertise 127.0.0.1) ;;
    broker) command=(start --data-dir "$2" --roles broker --name-server "127.0.0.1:$3" --listen "127.0.0.1:$4" --advertise 127.0.0.1 --broker-name "$5") ;;
    name-server) command=(start --data-dir "$2" --roles namesrv --name-server-listen "127.0.0.1:$3") ;;
  esac
  "$telstar" "${command[@]}" >> "$work/telstar-$1.log" 2>&1 &
  started=$!
  running+=("$started")
}

export_config() { # DIR: topics, groups and offsets as the files of a Java broker
  "$telstar" store export-config "$1" >> "$work/telstar-store.log" 2>&1
}

java_server() { # LOG HOME CLASS ARGUMENT...
  local log=$1 home=$2; shift 2
  mkdir -p "$home"
  ROCKETMQ_HOME=$home HOME=$home java -Xms64m -Xmx320m -XX:MaxDirectMemorySize=256m "${small_jvm[@]}" "-Duser.home=$home" \
    --add-exports=java.base/sun.nio.ch=ALL-UNNAMED --add-opens=java.base/java.nio=ALL-UNNAMED \
    -cp "$cache/servers-$servers_version/*" "$@" >> "$work/$log.log" 2>&1 &
  started=$!
  running+=("$started")
}

start_java_name_server() { # NS_PORT
  mkdir -p "$work/java-name-server"
  echo "listenPort=$1" > "$work/java-name-server/name-server.conf"
  java_server java-name-server "$work/java-name-server" org.apache.rocketmq.namesrv.NamesrvStartup -c "$work/java-name-server/name-server.conf"
}

start_java_broker() { # DIR NS_PORT BROKER_PORT BROKER_NAME; segments as long as Telstar's, so that stores can be exchanged
  local home=$work/home-$4
  mkdir -p "$home"
  printf '%s\n' brokerClusterName=DefaultCluster "brokerName=$4" brokerId=0 brokerIP1=127.0.0.1 "listenPort=$3" \
    "namesrvAddr=127.0.0.1:$2" "storePathRootDir=$1" "storePathCommitLog=$1/commitlog" mappedFileSizeCommitLog=1073741824 \
    brokerRole=ASYNC_MASTER "flushDiskType=${JAVA_FLUSH:-ASYNC_FLUSH}" diskMaxUsedSpaceRatio=95 > "$home/broker.conf"
  java_server "java-broker-$4" "$home" org.apache.rocketmq.broker.BrokerStartup -c "$home/broker.conf"
}

running=()

stop() { # PID: gives the exit status; 124 when it had to be killed
  local pid=$1 status=0 tenths
  kill -TERM "$pid" 2> /dev/null || true
  for tenths in $(seq 600); do
    kill -0 "$pid" 2> /dev/null || break
    sleep 0.1
  done
  if kill -KILL "$pid" 2> /dev/null; then wait "$pid" || true; return 124; fi
  wait "$pid" 2> /dev/null || status=$?
  return "$status"
}

end_with_children() { # PID
  local child
  for child in $(cat "/proc/$1/task/$1/children" 2> /dev/null); do end_with_children "$child"; done
  kill -TERM "$1" 2> /dev/null || true
}

at_the_end() {
  local pid
  trap - EXIT INT TERM
  for pid in $(jobs -p); do end_with_children "$pid"; done
  for pid in "${running[@]}"; do stop "$pid" || true; done
  if [ "${KEEP:-}" = 1 ]; then echo "kept $work" >&2; else rm -rf "$work"; fi
}
trap at_the_end EXIT
trap 'exit 130' INT TERM

# Prints pairs of ports for name server and broker; a broker also takes the ports two below (VIP) and one above (HA).
free_ports() { # PAIRS
  python3 - "$1" <<'PYTHON'
import random, socket, sys

def is_free(port):
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False

base = random.randrange(12000, 30000, 10)
for _ in range(int(sys.argv[1])):
    while not all(map(is_free, (base, base + 3, base + 5, base + 6))):
        base += 10
    print(base, base + 5)
    base += 10
PYTHON
}

# ---- counting

record() { # NAME [WHY]: one check of the script itself; with WHY it failed
  if [ $# -eq 1 ]; then echo "ok $1"; else echo "FAIL $1: $2"; fi | tee -a "$results/script"
}

suite() { # NAME COMMAND...: prints its checks as they come; one that ends badly without saying so is a failure of its own
  local name=$1 line; shift
  : > "$results/$name"
  { "$@" 2> "$work/$name.err" || echo "status $?"; } | while IFS= read -r line; do
    case $line in
      "ok "* | "FAIL "*) echo "$line"; echo "$line" >> "$results/$name" ;;
      "status "*) echo "$line" > "$results/.status-$name" ;;
    esac
  done
  if [ -e "$results/.status-$name" ] && ! grep -q '^FAIL ' "$results/$name"; then
    record "$name/suite_ends_well" "$(cat "$results/.status-$name"), $(tail -1 "$work/$name.err" | cut -c1-300)"
  fi
}

# Prints the sum, and with failures what the servers warned of; true when at least one check ran and none failed.
sum_up() {
  local passed failed
  passed=$(cat "$results"/* | grep -c '^ok ' || true)
  failed=$(cat "$results"/* | grep -c '^FAIL ' || true)
  if [ "$failed" -gt 0 ]; then
    echo "failed:"; cat "$results"/* | grep '^FAIL ' | sed 's/^/  /'
    echo "warnings of the servers:"; warnings | sed 's/^/  /'
  fi
  echo "$passed passed, $failed failed"
  [ "$passed" -gt 0 ] && [ "$failed" -eq 0 ]
}

warnings() { # the latest, shortened
  cat "$work"/telstar-*.log "$work"/java-*.log 2> /dev/null | grep -E ' (WARN|ERROR) ' | tail -30 | cut -c1-400 || true
}
