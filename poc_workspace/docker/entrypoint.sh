#!/usr/bin/env bash
# One party of a consortium in a container, or anywhere: lays out its workspace and starts NVFlare in the foreground.
#
#   /kit        the party's startup kit, mounted read-only: startup/ (signed) and local/ (the party's own settings)
#   /workspace  what NVFlare writes, and links to the files of /kit (NVFlare does not find them behind a linked folder);
#               /workspace/local is a volume of its own, for the privacy ledger
#
# NVFlare's own layout for containers (/user_config) copies local/ anew at every start, and would lose the privacy ledger.
#
#   start      run the party          health   exit code 0: it is up (the server answers)
#   check ...  wardround preflight    COMMAND  anything else, for example: wardround ledger show /workspace/local
set -euo pipefail

kit="${WARDROUND_KIT:-/kit}"
workspace="${WARDROUND_WORKSPACE:-/workspace}"

lay_out() {
  if [ ! -d "$kit/startup" ] || [ ! -d "$kit/local" ]; then
    echo "no startup kit in $kit: mount the folder that provisioning made for this party there" >&2
    exit 2
  fi
  if compgen -G "$kit/local/wardround_ledger*" >/dev/null; then
    echo "$kit/local holds a privacy ledger, which belongs onto the ledger's volume: move it there, then start again" >&2
    exit 2
  fi
  for folder in startup local; do
    mkdir -p "$workspace/$folder"
    find "$workspace/$folder" -maxdepth 1 -type l -delete
    find "$kit/$folder" -maxdepth 1 -type f -exec ln -s {} "$workspace/$folder/" \;
  done
}

case "${1:-start}" in
  start)
    lay_out
    exec "$workspace/startup/sub_start.sh" --once
    ;;
  check)
    lay_out
    exec wardround preflight "$workspace" "${@:2}"
    ;;
  health)
    exec wardround preflight "$workspace" --only server --started
    ;;
  *)
    exec "$@"
    ;;
esac
