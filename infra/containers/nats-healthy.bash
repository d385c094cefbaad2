#!/bin/bash
# Health check of nats-server's container, which has neither curl nor python: exit code 0 while its monitoring port says so.
# $1: query of /healthz, such as js-server-only=true.
exec 3<>"/dev/tcp/127.0.0.1/${NATS_MONITOR_PORT:-8222}" || exit 1
printf 'GET /healthz?%s HTTP/1.0\r\n\r\n' "${1:-}" >&3
read -r -t 4 status <&3
[[ $status == *" 200 "* ]]
