#!/bin/sh
# Writes workerd.capnp and assets.js into BUNDLE, with which workerd serves a gateway that wrangler has bundled (docs/operations.md,
# 'On workerd').
#
#   scripts/workerd-config.sh BUNDLE ASSETS STORAGE ADDRESS
#
# BUNDLE: folder of `wrangler deploy --dry-run --outdir`. ASSETS: folder of `leanedge build`. STORAGE: folder that keeps the
# Durable Objects. ADDRESS: host and port. Variables whose names begin with LEANEDGE_ are taken from the environment when
# workerd starts, so that no secret is in the file; only those that are set now are bound.
set -eu
[ $# -eq 4 ] || { echo "usage: $0 BUNDLE ASSETS STORAGE ADDRESS" >&2; exit 2; }
bundle=$(realpath "$1") assets=$(realpath "$2") storage=$(realpath "$3") address=$4
cd "$(dirname "$0")/.."
date=$(sed -n 's/^compatibility_date = "\(.*\)"/\1/p' wrangler.toml)
flags=$(sed -n 's/^compatibility_flags = //p' wrangler.toml)
objects=$(sed -n 's/^ *{ name = "\([A-Z]*\)", class_name = "\([A-Za-z]*\)" },$/\1 \2/p' wrangler.toml)
[ -n "$objects" ] || { echo "$0: wrangler.toml names no Durable Objects" >&2; exit 1; }

# The page by its own name and with types, as Cloudflare's static assets give them.
cat >"$bundle/assets.js" <<'SCRIPT'
const types = { html: 'text/html; charset=utf-8', js: 'text/javascript', css: 'text/css', json: 'application/json' };
export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    const path = pathname === '/' ? '/index.html' : pathname;
    if (path.endsWith('/')) return new Response(null, { status: 404 });
    const file = await env.FILES.fetch('http://files' + path, { method: request.method });
    if (file.headers.get('content-type') === 'application/json' && !path.endsWith('.json')) {
      await file.body?.cancel();
      return new Response(null, { status: 404 });
    }
    const answer = new Response(file.body, file);
    answer.headers.set('content-type', types[path.split('.').at(-1)] ?? 'application/octet-stream');
    return answer;
  },
};
SCRIPT

exec >"$bundle/workerd.capnp"

cat <<HEAD
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "gateway", worker = .gateway),
    (name = "files", disk = (path = "$assets")),
    (name = "assets", worker = .assets),
    (name = "storage", disk = (path = "$storage", writable = true)),
    # Workers in processes of their own are reached at private addresses, too.
    (name = "internet", network = (allow = ["public", "private", "local"], tlsOptions = (trustBrowserCas = true))),
  ],
  sockets = [(name = "http", address = "$address", http = (), service = "gateway")],
);
const assets :Workerd.Worker = (
  compatibilityDate = "$date",
  bindings = [(name = "FILES", service = "files")],
  modules = [(name = "assets.js", esModule = embed "assets.js")],
);
const gateway :Workerd.Worker = (
  compatibilityDate = "$date",
  compatibilityFlags = $flags,
  modules = [
    (name = "index.js", esModule = embed "index.js"),
HEAD
for module in "$bundle"/*.wasm; do
  file=$(basename "$module")
  echo "    (name = \"./$file\", wasm = embed \"$file\"),"
done
echo "  ],"
echo "  bindings = ["
echo "    (name = \"ASSETS\", service = \"assets\"),"
echo "$objects" | while read -r name class; do
  echo "    (name = \"$name\", durableObjectNamespace = \"$class\"),"
done
env | sed -n 's/^\(LEANEDGE_[A-Z_]*\)=.*/\1/p' | sort | while read -r name; do
  echo "    (name = \"$name\", fromEnvironment = \"$name\"),"
done
echo "  ],"
echo "  durableObjectNamespaces = ["
# The key goes into the names of stored objects: it must stay as it is.
echo "$objects" | while read -r _ class; do
  echo "    (className = \"$class\", uniqueKey = \"leanedge-$class\", enableSql = true),"
done
cat <<'TAIL'
  ],
  durableObjectStorage = (localDisk = "storage"),
);
TAIL
