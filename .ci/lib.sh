# Functions of the stages that run the conformance module against a real server. Source it from the repository's root.
#
# The stage sets `server` to the pid of the server it starts. At its end, the server is killed. If the stage fails, the
# end of `$work/log` is printed.
# shellcheck shell=bash

work=$(mktemp -d)
server=
access_key=conformance
secret_key=$(python3 -c 'import secrets; print(secrets.token_hex(16))')

finish() {
    local status=$?
    if [[ -n $server ]]; then
        kill -KILL "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    if ((status != 0)) && [[ -f $work/log ]]; then
        echo "--- the end of the server's log ---"
        tail -n 40 "$work/log"
    fi
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

# Prints `$1` free ports. All sockets stay open until all ports are known, so no port appears twice.
free_ports() {
    python3 - "$1" <<'PYTHON'
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for each in sockets:
    each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in sockets))
PYTHON
}

# Waits until the server listens on port `$1` of the loopback interface, for a minute at most.
until_it_listens() {
    local port=$1 attempt
    for attempt in {1..300}; do
        kill -0 "$server" || { echo "the server ended at its start"; exit 1; }
        # A redirection of the shell, which fails while nobody listens.
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && return
        sleep 0.2
    done
    echo "the server does not listen after a minute ($attempt attempts)"
    exit 1
}

# Runs the conformance module against a URL, as a provider, with the capabilities that a manifest would state (JSON), without
# the tests that the other arguments name. If the server hangs, ends the stage.
conformance() {
    local url=$1 provider=$2 capabilities=${3-} status=0 each skip=()
    for each in "${@:4}"; do
        skip+=(--skip "conformance::$each")
    done
    cargo test --locked --test it --no-run
    S3HAUL_TEST_URL=$url S3HAUL_TEST_PROVIDER=$provider S3HAUL_TEST_CAPABILITIES=$capabilities \
        S3HAUL_TEST_ACCESS_KEY=$access_key S3HAUL_TEST_SECRET_KEY=$secret_key \
        timeout 600 cargo test --locked --test it conformance -- "${skip[@]}" || status=$?
    ((status != 124)) || echo "the conformance tests did not end within 600 s: the server hangs, or this machine is too slow"
    return "$status"
}
