--- What becomes of a header field, whoever sends it: http_field_rule in proxy.c applies it (enum hdr_rule). A row is { rule, names,
-- kind | nil }. A space parts names, "*" at the end of one stands for any rest. The first row that fits decides; a field without a
-- row passes. kind: how lua/target.lua reads a second target:
--   bucket       bucket/key
--   key          a key in the request's own bucket
--   container    container/object (Swift)
--   account      an account (Swift)
--   destination  what WebDAV, CouchDB and Swift call Destination
--   url          a URL, or a path of this host
--   prefix       container/beginning of objects' names (Swift)
--   namespace    what stands before all paths of an API
local HOP         = 1 << 0      -- goes, both ways; also set on what Connection names
local FRAMING     = 1 << 1      -- goes; C writes the only one
local PROXY       = 1 << 2      -- goes: was meant for us
local OURS        = 1 << 3      -- goes: only we say this
local ROUTING     = 1 << 4      -- goes where a method or path rule decided: names another method or path
local AUTH        = 1 << 5      -- authentication
local ANSWER_DROP = 1 << 6      -- goes from answers
local FIXED       = 1 << 7      -- no policy may set it
local NO_TRAILER  = 1 << 8      -- means something only before the body
local VHOST       = 1 << 9      -- goes where a rule decided or a credential is attached: names another host
local SECOND      = 1 << 10     -- names a second target, which is judged as the first was
local DOOR        = 1 << 14     -- of what the door hands on, and of its answer: goes on. All others are the door's own affair (the
                                -- caller's token, cookies of either side, CORS), or nobody's

return {
  -- RFC 9110 7.6.1, 7.8, 10.1.4, RFC 2068 19.7.1: of this hop; RFC 7540 3.2.1: half of an h2c upgrade
  { HOP | FIXED, "connection keep-alive te upgrade http2-settings" },
  -- RFC 9112 6.1; 6.3: two lengths smuggle; RFC 9112 3.2: the host that was decided on
  { FRAMING | FIXED, "transfer-encoding content-length host" },
  -- RFC 9110 6.6.2: announces them; 10.1.1: a handshake that C runs
  { FIXED | NO_TRAILER, "trailer expect" },
  { PROXY | FIXED, "proxy" },       -- httpoxy: becomes HTTP_PROXY in a CGI
  -- RFC 9110 11.7.2: for us; a policy may set its own (Google IAP)
  { PROXY | AUTH, "proxy-authorization" },
  { PROXY | FIXED, "proxy-*" },     -- RFC 9110 11.7: for us; the rest is folklore
  { OURS | ANSWER_DROP | FIXED, "x-sallyport-*" },      -- nobody else may forge it
  { ANSWER_DROP, "alt-svc" },       -- RFC 7838: leads the client around the proxy

  -- Servers and frameworks that take the method from here, not from its line.
  { ROUTING, "x-http-method* x-method-override "        -- Google, OData, Rails, Symfony, Express
    .. "http-method* method-override x-override-method x-method x-http-verb* x-verb "      -- their imitators
    .. "x-original-method x-forwarded-method x-request-method x-requested-method "         -- nginx ingress, Traefik

  -- The same for the path: IIS, ISAPI Rewrite, Symfony, Zend, nginx; PHP frameworks; Kong, Spring; WSGI, CGI
    .. "x-original-ur* x-rewrite-* x-original-request-* x-original-path* x-replaced-path x-override-ur* "
    .. "x-forwarded-ur* x-forwarded-path* x-forwarded-prefix x-request-ur* x-request-path request-ur* x-path "
    .. "x-path-info x-url x-uri url uri http-ur* base-url x-http-ur* x-http-path* x-http-destination* "
    .. "x-script-name script-name path-info x-base-path x-context-path x-forwarded-context* "
    .. "x-forwarded-request-* x-envoy-original-* x-proxy-* "        -- Envoy dials there
    .. "x-invoke-* x-matched-path x-ingress-path x-middleware-* x-nextjs-rewrit* x-now-route-* "    -- Next.js
    .. "x-waws-unencoded-url x-ms-original-url "    -- Azure's web apps
    .. "x-forward-ur* x-forwarded-script* x-real-ur* original-ur* rewrite-ur* unencoded-url "       -- IIS
    .. "x-accel-* x-sendfile*" },   -- Rack::Sendfile, CVE-2025-61780

  -- The same for the host.
  { VHOST | NO_TRAILER, "forwarded" },      -- RFC 7239: its host=
  { VHOST, "x-forwarded-host* x-forwarded-server "      -- Apache, nearly all frameworks
    .. "x-forwarded-authority x-host x-host-override x-original-host x-http-host* http-host* "      -- gateways
    .. "x-override-host x-backend-host x-real-host x-upstream-host host-override fastly-host "
    .. "x-forward-host x-forwarded-domain original-host x-virtual-host x-target-host "
    .. "disguised-host "            -- Azure App Service
    .. "x-cf-forwarded-url x-target-ur*" },     -- Cloud Foundry's route services go there

  -- A second target: S3, Google Storage, Alibaba, Huawei, Baidu, Volcano, Kingsoft, UPYUN, QingStor, NetEase
  { SECOND, "x-amz-copy-source x-goog-copy-source x-oss-copy-source x-obs-copy-source "
    .. "x-bce-copy-source x-tos-copy-source x-kss-copy-source x-upyun-copy-source x-upyun-move-source "
    .. "x-qs-copy-source x-qs-move-source x-nos-copy-source x-nos-move-source", "bucket" },
  -- a rename within a bucket; MinIO: an archive is unpacked there
  { SECOND, "x-amz-rename-source x-oss-rename-source x-amz-meta-minio-snowball-prefix", "key" },
  -- Tencent; Azure: Blob, Data Lake, and Files
  { SECOND, "x-cos-copy-source x-ms-copy-source x-ms-rename-source x-ms-file-rename-source", "url" },
  -- Swift; its accounts beside these; a large object is all that begins so
  { SECOND, "x-copy-from x-symlink-target x-versions-location x-history-location", "container" },
  { SECOND, "x-copy-from-account x-symlink-target-account destination-account", "account" },
  { SECOND, "x-object-manifest", "prefix" },
  { SECOND, "destination", "destination" },         -- RFC 4918 10.3
  { SECOND, "x-vault-namespace", "namespace" },     -- Vault, OpenBao

  -- RFC 9110 11.6.1 to 11.6.3; RFC 6265 4.1, 4.2: a session is a credential
  { AUTH, "authorization authentication-info www-authenticate cookie set-cookie" },

  { DOOR, "accept accept-language user-agent last-event-id traceparent tracestate mcp-*" },
  { DOOR | NO_TRAILER, "content-type content-language cache-control retry-after date" },

  -- RFC 9110 6.5.1, not for a trailer: how to read the body; control (7.6.2, RFC 9111 5.2, 5.4); who
  -- asked, and for which host; conditionals (13.1, 14.2); the rest of 6.5.1. A server that merges all of
  -- them gets none.
  { NO_TRAILER, "content-* cache-control pragma max-forwards x-forwarded-* range if-* age date "
    .. "expires location retry-after vary" },
}
