#!/bin/sh
# Starts the other machine: an rsync daemon with an empty module. It ends with the scratch host.
set -eu
mkdir -p /run/remote
rsync --daemon --config="$(dirname "$0")/rsyncd.conf"
until rsync rsync://127.0.0.1:8730/ > /dev/null 2>&1; do sleep 0.05; done
