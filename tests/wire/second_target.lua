--- Fields that name another place than the request line does: judged as a second target by the rules that decided about
-- the first, or taken away. Where no rule decides, they pass.
local VHOST = "pub-bucket.s3.us-east-1.amazonaws.com"
local cases = {}

local function send(host, line, fields)
  return ("%s HTTP/1.1\r\nHost: %s\r\n%sContent-Length: 0\r\n\r\n"):format(line, host, fields)
end

local function passes(host, line, field, value, what)
  local name = field:lower():gsub("_", "-")
  cases[#cases + 1] = { name = ("%s: %s %s: %s passes"):format(what or host, line, field, value), host = host,
    send = send(host, line, field .. ": " .. value .. "\r\n"),
    expect = { status = 200, upstream = { header = { [field:find("_") and "content-length" or name] = field:find("_") and "0" or value } } } }
end

local function refused(host, line, fields, code)
  cases[#cases + 1] = { name = ("%s: %s %s is refused"):format(host, line, fields:gsub("\r\n", " ")), host = host,
    send = send(host, line, fields:find("\r\n") and fields or fields .. "\r\n"),
    expect = { status = code == "ambiguous_path" and 400 or 403, error = code or "path_not_allowed", upstream = "nothing",
      log = { decision = "deny", reason = code or "path_not_allowed" } } }
end

local function gone(host, line, fields, keeps)
  local names, text = {}, ""
  for _, f in ipairs(fields) do
    names[#names + 1] = f:match("^[^:]+"):lower()
    text = text .. f .. "\r\n"
  end
  cases[#cases + 1] = { name = ("%s: %s%s %s"):format(host, names[1], names[2] and " and kin" or "", keeps and "stay" or "go"), host = host,
    send = send(host, line, text), expect = { status = 200, upstream = keeps and { head_has = keeps } or { no_header = names } } }
end

-- ---- S3, buckets in the path, kept to one of them
local S3, PUT = "s3.test", "PUT /pub-bucket/x"
for _, field in ipairs { "x-amz-copy-source", "X-Amz-Copy-Source", "x-goog-copy-source", "x-oss-copy-source", "x-obs-copy-source",
  "x-upyun-move-source", "x-qs-copy-source", "x-nos-move-source" } do
  passes(S3, PUT, field, "/pub-bucket/a")
  refused(S3, PUT, field .. ": /private-bucket/secret")
end
passes(S3, PUT, "x-amz-copy-source", "pub-bucket/a%2Fb?versionId=3sL4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY")
passes(S3, PUT, "x-amz-copy-source", "pub-bucket/a%3Fb")
for _, value in ipairs { "private-bucket/secret", "private-bucket%2Fsecret", "%2Fprivate-bucket/secret", "pub-bucketx/a",
  "arn:aws:s3:us-east-1:123456789012:accesspoint/other/object/secret", "https://s3.test/private-bucket/secret", "", "/", "PUB-BUCKET/a",
  "?/pub-bucket/a", "#" } do
  refused(S3, PUT, "x-amz-copy-source: " .. value)
end
for _, value in ipairs { "/pub-bucket/../private-bucket/secret", "pub-bucket/..%2Fprivate-bucket/secret", "pub-bucket%2f..%2fprivate-bucket/s",
  "pub-bucket/%2e%2e/private-bucket/s", "pub-bucket\\..\\private-bucket/s", "pub-bucket/%zz", "//pub-bucket/private-bucket/s",
  "%70ub-bucket/a", "pub-bucket/a?x/../../private-bucket/s", "pub-bucket/a#/../../private-bucket/s", "pub-bucket/%00a",
  "pub-bucket/a%3f/../../private-bucket/s" } do
  refused(S3, PUT, "x-amz-copy-source: " .. value, "ambiguous_path")
end
refused(S3, PUT, "x_amz_copy_source: /private-bucket/secret")
refused(S3, PUT, "x-amz-copy-source: /pub-bucket/a\r\nx-amz-copy-source: /pub-bucket/b\r\n", "ambiguous_path")
refused(S3, PUT, "x-amz-copy-source: /pub-bucket/a\r\nX_Amz-Copy-Source: /private-bucket/b\r\n", "ambiguous_path")
refused(S3, PUT .. "?partNumber=1&uploadId=u", "x-amz-copy-source: /private-bucket/secret")
passes(S3, PUT, "x-amz-rename-source", "old")
refused(S3, PUT, "x-amz-rename-source: ../private-bucket/old", "ambiguous_path")
refused(S3, PUT, "x-amz-meta-minio-snowball-prefix: ../private-bucket", "ambiguous_path")
cases[#cases + 1] = { name = "a copy source in the query goes", host = S3, send = send(S3, PUT .. "?x-amz-copy-source=%2Fprivate-bucket%2Fs&X-Amz-Copy-Source=a&b=1", ""),
  expect = { status = 200, upstream = { line = "PUT /pub-bucket/x?b=1 HTTP/1.1" } } }
passes("all.test", "PUT /pub-bucket/x", "x-amz-copy-source", "/private-bucket/secret", "no path rule")
passes("all.test", "PUT /pub-bucket/x", "x-amz-copy-source", "arn:aws:s3:us-east-1:123456789012:accesspoint/other/object/secret", "no path rule")

-- ---- S3, the bucket in the host
passes(VHOST, "PUT /x", "x-amz-copy-source", "/pub-bucket/a/../b%zz")
passes(VHOST, "PUT /x", "x-amz-copy-source", "pub%2Dbucket/a")
passes(VHOST, "PUT /x", "x-amz-rename-source", "a")
for _, value in ipairs { "/private-bucket/secret", "private-bucket/secret", "%70rivate-bucket/secret", "private-bucket%2Fsecret", "private%252Dbucket%252Fs",
  "arn:aws:s3:us-east-1:123456789012:accesspoint/other/object/secret", "arn:aws:s3-outposts:us-east-1:123456789012:outpost/o/object/s" } do
  refused(VHOST, "PUT /x", "x-amz-copy-source: " .. value, "host_not_allowed")
end
refused(VHOST, "PUT /x", "x-amz-copy-source: //private-bucket/secret", "ambiguous_path")
refused(VHOST, "PUT /x", "x-amz-copy-source: https://pub-bucket/private", "ambiguous_path")
local REGION = "any.s3.us-east-1.amazonaws.com"
passes(REGION, "PUT /x", "x-amz-copy-source", "/another-bucket/secret", "a wildcard covers both buckets")
passes(REGION, "PUT /x", "x-amz-copy-source", "arn:aws:s3:us-east-1:123456789012:accesspoint/p/object/k", "a wildcard covers the access point")

-- ---- Azure
local BLOB = "blob.test"
passes(BLOB, "PUT /pub/x", "x-ms-copy-source", "https://blob.test/pub/a%20b?sv=2024-01-01&sig=a%2Fb%3D")
passes(BLOB, "PUT /pub/x", "x-ms-rename-source", "/pub/a?sv=1")
passes(BLOB, "PUT /pub/x", "x-ms-file-rename-source", "https://blob.test/pub/a")
for _, field in ipairs { "x-ms-copy-source", "x-ms-rename-source", "x-ms-file-rename-source" } do
  refused(BLOB, "PUT /pub/x", field .. ": https://blob.test/private/secret")
  refused(BLOB, "PUT /pub/x", field .. ": /private/secret")
  refused(BLOB, "PUT /pub/x", field .. ": https://otherblob.test/pub/a", "host_not_allowed")
  refused(BLOB, "PUT /pub/x", field .. ": http://blob.test/pub/a", "host_not_allowed")
  refused(BLOB, "PUT /pub/x", field .. ": https://blob.test:8443/pub/a", "host_not_allowed")
  refused(BLOB, "PUT /pub/x", field .. ": https://blob.test/pub/../private/s", "ambiguous_path")
  refused(BLOB, "PUT /pub/x", field .. ": //blob.test/pub/a", "ambiguous_path")
  refused(BLOB, "PUT /pub/x", field .. ": https://u@blob.test/pub/a", "ambiguous_path")
  refused(BLOB, "PUT /pub/x", field .. ": https:blob.test/pub/a", "ambiguous_path")
end
passes("freeblob.test", "PUT /pub/x", "x-ms-copy-source", "https://otherblob.test/pub/a?sig=x", "no path rule")

-- ---- WebDAV, CouchDB, Swift
local DAV = "dav.test"
for _, method in ipairs { "COPY", "MOVE" } do
  passes(DAV, method .. " /dav/shared/x", "Destination", "https://dav.test/dav/shared/y")
  passes(DAV, method .. " /dav/shared/x", "Destination", "/dav/shared/y%20z")
  refused(DAV, method .. " /dav/shared/x", "Destination: https://dav.test/dav/private/overwritten")
  refused(DAV, method .. " /dav/shared/x", "destination: /dav/private/overwritten")
  refused(DAV, method .. " /dav/shared/x", "Destination: /dav/shared/%2e%2e/private/y", "ambiguous_path")
  refused(DAV, method .. " /dav/shared/x", "Destination: https://elsewhere.test/dav/shared/y", "host_not_allowed")
  refused(DAV, method .. " /dav/shared/x", "Destination: //dav.test/dav/shared/y", "ambiguous_path")
  refused(DAV, method .. " /dav/shared/x", "Destination: ../private/y", "ambiguous_path")
  refused(DAV, method .. " /dav/shared/x", "Destination: file:///dav/shared/y", "ambiguous_path")
end
passes(DAV, "COPY /dav/shared/x", "Destination", "y")
for _, value in ipairs { "1https://dav.test/dav/private/y", "<https://dav.test/dav/private/y>", "https%3A//dav.test/dav/private/y", "\"/dav/private/y\"",
  "x:/dav/private/y\\", "y\\..\\..\\private" } do
  refused(DAV, "COPY /dav/shared/x", "Destination: " .. value, "ambiguous_path")
end
passes("key.test", "MOVE /dav/x", "Destination", "https://key.test/dav/y", "no path rule")
refused("key.test", "MOVE /dav/x", "Destination: https://elsewhere.test/dav/y", "host_not_allowed")
local SWIFT, OBJECT = "swift.test", "/v1/AUTH_me/pub/x"
passes(SWIFT, "PUT " .. OBJECT, "X-Copy-From", "/pub/a")
passes(SWIFT, "PUT " .. OBJECT, "X-Copy-From", "pub/a")
passes(SWIFT, "COPY " .. OBJECT, "Destination", "/pub/a")
passes(SWIFT, "COPY " .. OBJECT, "Destination", "pub/a")
passes(SWIFT, "PUT " .. OBJECT, "X-Copy-From-Account", "AUTH_me")
passes(SWIFT, "PUT " .. OBJECT, "X-Object-Manifest", "pub/big/")
refused(SWIFT, "PUT " .. OBJECT, "X-Object-Manifest: pub")     -- and "public"
for _, field in ipairs { "X-Copy-From", "X-Symlink-Target", "X-Object-Manifest", "X-Versions-Location", "X-History-Location" } do
  refused(SWIFT, "PUT " .. OBJECT, field .. ": private/a")
end
refused(SWIFT, "COPY " .. OBJECT, "Destination: private/a")
refused(SWIFT, "COPY " .. OBJECT, "Destination: /private/a")
for _, field in ipairs { "X-Copy-From-Account", "Destination-Account", "X-Symlink-Target-Account" } do
  refused(SWIFT, "PUT " .. OBJECT, field .. ": AUTH_other")
  refused(SWIFT, "PUT " .. OBJECT, field .. ": AUTH_me/pub", "ambiguous_path")
end

-- ---- Google Storage's JSON API has it in the path
local GCS = "storage.googleapis.com"
for _, path in ipairs { "/storage/v1/b/pub/o/x/rewriteTo/b/other/o/y", "/storage/v1/b/pub/o/x%2Fy/copyTo/b/other/o/y", "/storage/v1/b/pub/o/x/moveTo/b/other/o/y" } do
  refused(GCS, "POST " .. path, "X-A: b")
end
refused(GCS, "POST /storage/v1/b/pub/o/x/rewrite%54o/b/other/o/y", "X-A: b")
cases[#cases].expect.cli = { ["explain POST https://storage.googleapis.com/storage/v1/b/pub/o/x/rewriteTo/b/pub/o/y"] = "ALLOW  with the credential 'gcs'",
  ["explain POST https://storage.googleapis.com/storage/v1/b/pub/o/x/rewriteTo/b/other/o/y"] = "path_not_allowed" }

-- ---- Vault's namespaces, routes of WordPress, WebHDFS
passes("vault.test", "GET /v1/team/secret/x", "X-Vault-Namespace", "")
refused("vault.test", "GET /v1/team/secret/x", "X-Vault-Namespace: other")
refused("vault.test", "GET /v1/team/secret/x", "X_Vault_Namespace: /other/")
refused("vault.test", "GET /v1/team/secret/x", "X-Vault-Namespace: team/../other")
local POSTS = "/wp-json/wp/v2/posts"
passes("wp.test", "GET " .. POSTS .. "?rest_route=/wp/v2/posts/1&destination=/x", "X-A", "b")
for _, query in ipairs { "rest_route=/wp/v2/users", "a=b&rest%5Froute=%2Fwp%2Fv2%2Fusers", "rest.route=/wp/v2/users", "+rest_route=wp/v2/users", "rest_route[=/wp/v2/users" } do
  refused("wp.test", "GET " .. POSTS .. "?" .. query, "X-A: b")
end
refused("wp.test", "GET " .. POSTS .. "?rest_route=/wp/v2/posts/../users", "X-A: b", "ambiguous_path")
cases[#cases].expect.cli = { ["explain GET https://wp.test" .. POSTS .. "?rest_route=/wp/v2/users"] = "path_not_allowed",
  ["explain GET https://wp.test" .. POSTS .. "?rest_route=/wp/v2/posts/1"] = "ALLOW  with the credential 'wp'" }
passes("hdfs.test", "PUT /webhdfs/v1/pub/x?op=RENAME&destination=/pub/y", "X-A", "b")
refused("hdfs.test", "PUT /webhdfs/v1/pub/x?op=RENAME&destination=/private/y", "X-A: b")
refused("hdfs.test", "POST /webhdfs/v1/pub/x?op=CONCAT&sources=/pub/y,/private/y", "X-A: b")
passes("open.test", "GET /x?rest_route=/wp/v2/users", "X-A", "b")      -- a rule on methods alone

-- ---- another credential's place is not this one's
refused("two.test", "COPY /a/x", "Destination: /b/y")
refused("two.test", "COPY /a/x", "Destination: /c/y")
-- ---- methods: the same for both
refused("verb.test", "PUT /a/x", "Destination: /b/y", "method_not_allowed")

-- ---- a domain entry with methods
passes("open.test", "PUT /x", "Destination", "/y")
refused("open.test", "PUT /x", "Destination: https://elsewhere.test/y", "host_not_allowed")

-- ---- a type's own
passes("own.test", "PUT /pub/x", "X-Acme-From", "/pub/y")
refused("own.test", "PUT /pub/x", "X-Acme-From: /private/y")
refused("own.test", "PUT /pub/x", "x_acme_from: /private/y")
gone("own.test", "GET /pub/x", { "X-Acme-Tenant: other" })

-- ---- what is taken away
local hosts = { "X-Forwarded-Host: a", "X-Host: a", "X-Original-Host: a", "X-Forwarded-Server: a", "Forwarded: host=a", "X-HTTP-Host-Override: a",
  "X_Forwarded_Host: a", "X-Host-Override: a", "X-HTTP-Host: a", "X-Forward-Host: a", "X-Forwarded-Domain: a", "Original-Host: a", "X-Virtual-Host: a",
  "DISGUISED-HOST: a", "X-CF-Forwarded-Url: https://a/", "X-Target-URL: https://a/" }
local paths = { "X-Original-URL: /a", "X-Rewrite-URL: /a", "X-Request-Uri: /a", "X-Original-Request-Url: /a", "X-Proxy-Url: /a", "X-Forwarded-Url: /a",
  "X-Forwarded-Uri: /a", "X-Forwarded-Path: /a", "X-Forwarded-Prefix: /a", "X-Path: /a", "Request-Uri: /a", "X_Request_Uri: /a",
  "X-Http-Destinationurl: /a", "X-Envoy-Original-Path: /a", "X-Accel-Mapping: /=/a", "X-Sendfile-Type: X-Accel-Redirect",
  "X-Middleware-Rewrite: /a", "X-Now-Route-Matches: 1=a", "X-MS-Original-Url: /a", "X-Forward-Uri: /a", "X-Forwarded-Script-Name: /a", "X-Real-URL: /a",
  "Original-Url: /a", "Rewrite-Url: /a", "Unencoded-Url: /a" }
local methods = { "Method-Override: DELETE", "X-METHOD: DELETE", "HTTP-Method: DELETE", "X-Request-Method: DELETE", "X-Forwarded-Method: DELETE",
  "X-HTTP-Method: DELETE", "X-HTTP-Method-Override: DELETE", "X-Method-Override: DELETE", "X-Original-Method: DELETE", "HTTP_METHOD_OVERRIDE: DELETE" }
for _, host in ipairs { S3, "verb.test" } do
  local line = host == S3 and "GET /pub-bucket/x" or "GET /b/x"
  for _, list in ipairs { hosts, paths, methods } do gone(host, line, list) end
end
gone("key.test", "GET /x", hosts)               -- the rule on hosts always decides
gone("key.test", "GET /x", paths, paths)        -- no rule on paths or methods does
gone("key.test", "GET /x", methods, methods)
gone("key.test", "GET /x", { "X-Forwarded-Proto: https", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Port: 443", "X-Hostname: a" },
  { "X-Forwarded-Proto: https", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Port: 443", "X-Hostname: a" })
cases[#cases + 1] = { name = "none of them comes back as a trailer", host = "own.test",
  send = "PUT /pub/x HTTP/1.1\r\nHost: own.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Host: a\r\nDestination: /b\r\nX-Amz-Copy-Source: /b/c\r\nX-Path: /a\r\nX-Sum: 7\r\n\r\n",
  expect = { status = 200, upstream = { raw_body = "1\r\na\r\n0\r\nX-Sum: 7\r\n\r\n" } } }

local own = [[
return {
  kind = "type", api = 1, name = "own", title = "x",
  fields = { { name = "token", secret = true, required = true } },
  targets = { ["X-Acme-From"] = "url", ["X-Acme-Tenant"] = "away" },
  apply = function(req, cred) req.headers:set("authorization", "Bearer " .. cred.token) end,
}
]]

local function bearer(name, host, more)
  local c = { name = name, type = "bearer", host = host, secrets = { token = "canary-" .. name } }
  for k, v in pairs(more or {}) do c[k] = v end
  return c
end

return {
  shared = {
    hosts = { "s3.test", "all.test", VHOST, REGION, BLOB, "freeblob.test", DAV, SWIFT, "two.test", "verb.test", "open.test", "own.test", "key.test", "vault.test", "wp.test", "hdfs.test" },
    policies = { { name = "own", source = own } },
    credentials = {   -- scrub=off: the upstream repeats each request, and more than ten a minute would be too many hits
      { name = "s3", type = "aws_sigv4", host = "s3.test", path = "/pub-bucket", fields = { scrub = "off", access_key_id = "k", region = "r1", service = "s3" },
        secrets = { secret_access_key = "canary-s3" } },
      { name = "vhost", type = "aws_sigv4", host = VHOST, fields = { scrub = "off", access_key_id = "k" }, secrets = { secret_access_key = "canary-vhost" } },
      { name = "region", type = "aws_sigv4", host = "*.us-east-1.amazonaws.com", fields = { scrub = "off", access_key_id = "k" }, secrets = { secret_access_key = "canary-region" } },
      bearer("blob", BLOB, { path = "/pub" }), bearer("freeblob", "freeblob.test"),
      bearer("dav", DAV, { path = "/dav/shared" }), bearer("swift", SWIFT, { path = "/v1/AUTH_me/pub" }),
      bearer("gcs", GCS, { path = "/storage/v1/b/pub" }), bearer("vault", "vault.test", { path = "/v1/team/secret" }),
      bearer("wp", "wp.test", { path = POSTS }), bearer("hdfs", "hdfs.test", { path = "/webhdfs/v1/pub" }), bearer("a", "two.test", { path = "/a" }), bearer("b", "two.test", { path = "/b" }),
      bearer("write", "verb.test", { path = "/a", method = { "PUT" } }), bearer("read", "verb.test", { path = "/b", method = { "GET" } }),
      bearer("keyed", "key.test"),
      { name = "own", type = "own", host = "own.test", path = "/pub", secrets = { token = "canary-own" } },
    },
    domains = { { host = "all.test", method = { "GET", "PUT", "MOVE" } }, { host = "open.test", method = { "GET", "PUT" } } },
  },
  cases = cases,
}
