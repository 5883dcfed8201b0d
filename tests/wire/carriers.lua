--- Keys of the agent's own beside ours: taken off, refused, kept or let pass, as the credential says.
local function get(host, target, fields, expect, name)
  return { name = (name and name .. ": " or "") .. host .. target .. " " .. fields:gsub("%s+", " "), host = host,
    send = ("GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n"):format(target, host, fields), expect = expect }
end

local function send(method, host, target, fields, body, expect)
  return { name = ("%s %s%s %s%s"):format(method, host, target, fields:gsub("%s+", " "), body), host = host,
    send = ("%s %s HTTP/1.1\r\nHost: %s\r\n%sContent-Length: %d\r\n\r\n%s"):format(method, target, host, fields, #body, body),
    expect = expect }
end

local function upgrade(host, protocols)
  return "GET /ws HTTP/1.1\r\nHost: " .. host .. "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    .. "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" .. protocols .. "\r\n"
end

local function ours(stripped, more)
  local up = { header = { authorization = "Bearer canary-bearer" }, head_not = "mine" }
  for k, v in pairs(more or {}) do up[k] = v end
  return { status = 200, upstream = up, log = { stripped = stripped, decision = "allow", credential = "bearer" } }
end

local function refused(stripped)
  return { status = 403, error = "foreign_credential", upstream = "nothing",
    log = { decision = "deny", reason = "foreign_credential", stripped = stripped } }
end

local function passed(header, more)
  local up = { header = header, head_not = "canary" }
  for k, v in pairs(more or {}) do up[k] = v end
  return { status = 200, upstream = up, log_never = "mine-and-only-mine" }
end

local cases = {}
local function add(c) cases[#cases + 1] = c end

-- ---- headers, for every type
for _, name in ipairs { "X-Api-Key", "x_api_key", "X-Goog-Api-Key", "Api-Key", "Api_Key", "PRIVATE-TOKEN", "X-Auth-Token", "X-Vault-Token",
  "Ocp-Apim-Subscription-Key", "X-Authorization", "apikey", "X-Access-Token" } do
  local folded = name:lower():gsub("_", "-")
  add(get("bearer.test", "/", name .. ": mine\r\n", ours(folded, { no_header = { name:lower(), folded } })))
end
add(get("bearer.test", "/", "Authorization: Bearer mine\r\n", ours "authorization"))
add(get("bearer.test", "/", "Authorization: Bearer ${ENV:BEARER_TOKEN}\r\nX-Trace: kept\r\nCookie: kept\r\n", { status = 200,
  upstream = { header = { authorization = "Bearer canary-bearer", ["x-trace"] = "kept", cookie = "kept" } }, log_never = "stripped" },
  "our own placeholder is nobody else's key"))
add(get("bearer.test", "/", "X-Goog-Api-Key: ${ENV:BEARER_TOKEN}\r\n", { status = 200,
  upstream = { header = { authorization = "Bearer canary-bearer" }, no_header = "x-goog-api-key" }, log_never = "stripped" }, "where the client puts it"))
add(get("basic.test", "/", "X-Api-Key: mine\r\n", { status = 200, upstream = { header = { authorization = "Basic bWU6Y2FuYXJ5LWJhc2lj" }, head_not = "mine" } }))
add(get("key.test", "/", "X-Api-Key: mine\r\nX-Auth-Token: mine\r\nX_Own: mine\r\n", { status = 200,
  upstream = { header = { ["x-own"] = "canary-key" }, head_not = "mine" } }))
add(get("param.test", "/?q=1", "X-Api-Key: mine\r\n", { status = 200, upstream = { line = "GET /?q=1&key=canary-param HTTP/1.1", head_not = "mine" } }))
add(get("rows.test", "/canary", "X-Api-Key: mine\r\n", { status = 200, upstream = { head_not = "mine" } }))
add(get("open.test", "/?access_token=mine", "X-Api-Key: mine\r\n", { status = 200, upstream = { line = "GET /?access_token=mine HTTP/1.1",
  header = { ["x-api-key"] = "mine" } } }, "where nothing is attached"))
add({ name = "a trailer is no way around", host = "bearer.test",
  send = "POST / HTTP/1.1\r\nHost: bearer.test\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nTrailer: X-Api-Key, X-Sum\r\n\r\n"
    .. "1\r\nx\r\n0\r\nX-Api-Key: mine\r\nX_Vault_Token: mine\r\nX-Sum: 1\r\n\r\n",
  expect = { status = 200, upstream = { raw_body = "1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n" } } })

-- ---- the query: where a type or preset names it
add(get("bearer.test", "/a?access_token=mine&b=2", "", ours("?access_token", { line = "GET /a?b=2 HTTP/1.1" })))
add(get("bearer.test", "/a?%61ccess_token=mine&access.token[]=mine&b=2", "", ours("?access_token, ?access_token", { line = "GET /a?b=2 HTTP/1.1" })))
add(get("bearer.test", "/a?key=k&token=t&api_key=a", "", { status = 200, upstream = { line = "GET /a?key=k&token=t&api_key=a HTTP/1.1" } },
  "ordinary parameters"))
add(get("basic.test", "/a?access_token=x", "", { status = 200, upstream = { line = "GET /a?access_token=x HTTP/1.1" } }, "no bearer type"))
for _, method in ipairs { "POST", "PUT", "PATCH", "DELETE", "OPTIONS" } do
  add(send(method, "bearer.test", "/a?access_token=mine", "", "", refused "?access_token"))
end
add(send("POST", "bearer.test", "/a?access_token=${ENV:BEARER_TOKEN}&b=2", "", "", { status = 200,
  upstream = { line = "POST /a?b=2 HTTP/1.1", header = { authorization = "Bearer canary-bearer" } } }))
add(send("POST", "bearer.test", "/a?key=k", "X-Api-Key: mine\r\n", "", ours("x-api-key", { line = "POST /a?key=k HTTP/1.1" })))
add(send("POST", "slack.test", "/api/chat?token=mine", "", "", refused "?token"))
add(get("slack.test", "/api/chat?token=mine&a=b", "", { status = 200, upstream = { line = "GET /api/chat?a=b HTTP/1.1", head_not = "mine" } }))
add(send("POST", "param.test", "/?key=mine&q=1", "", "", { status = 200, upstream = { line = "POST /?q=1&key=canary-param HTTP/1.1" } }))

local FORM, JSON = "Content-Type: application/x-www-form-urlencoded\r\n", "Content-Type: application/json\r\n"
local PARTS = "Content-Type: multipart/form-data; boundary=b\r\n"
local body_refused = { status = 403, error = "foreign_credential", upstream = "nothing" }
add(send("POST", "bearer.test", "/", FORM, "a=1&access_token=mine", body_refused))
add(send("POST", "bearer.test", "/", FORM, "a=1&access%5Ftoken[]=mine", body_refused))
add(send("POST", "bearer.test", "/", FORM, "a=1&token=t&key=k", { status = 200, upstream = { raw_body = "a=1&token=t&key=k" } }))
-- A long form is looked through as well, and one that has no such name goes on.
local long = ("a=%41&"):rep((3 << 20) // 7)
local head = "POST / HTTP/1.1\r\nHost: bearer.test\r\n" .. FORM .. "Content-Length: %d\r\n\r\n"
add { name = "3 MiB of a form", host = "bearer.test", send = { head:format(#long), long }, expect = { status = 200, upstream = { body_size = #long } } }
add { name = "3 MiB and a key", host = "bearer.test", send = { head:format(#long + 14), long, "access%5Ftoken" }, expect = body_refused }
-- A body without a type, which some read as a form of a POST, streams, and is nobody's form: it gets its type.
for _, kind in ipairs { "", "Content-Type:\r\n", "Content-Type: ;\r\nContent-Type: \r\n" } do
  add(send("POST", "bearer.test", "/", kind, "a=1&access_token=mine", { status = 200,
    upstream = { raw_body = "a=1&access_token=mine", header = { ["content-type"] = "application/octet-stream" } } }))
end
add(send("POST", "bearer.test", "/", "", "", { status = 200, upstream = { no_header = "content-type" } }))
add(send("PUT", "bearer.test", "/", "", "access_token=mine", { status = 200, upstream = { no_header = "content-type" } }))
add { name = "20 MB without a type", host = "bearer.test", send = { "POST / HTTP/1.1\r\nHost: bearer.test\r\nContent-Length: 20000000\r\n\r\n", { ["repeat"] = ("x"):rep(100000), times = 200 } },
  upstream = { reply = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" }, expect = { status = 200, upstream = { body_size = 20000000 } } }
add(send("POST", "bearer.test", "/", JSON, '{"access_token":"x"}', { status = 200, upstream = { raw_body = '{"access_token":"x"}' } }))
add(send("POST", "slack.test", "/api/x", FORM, "token=mine&a=b", body_refused))
add(send("POST", "slack.test", "/api/x", JSON, '{"t\\u006fken":"mine"}', body_refused))
add(send("POST", "slack.test", "/api/x", JSON, '{"text":"token"}', { status = 200, upstream = { raw_body = '{"text":"token"}' } }))
add(send("POST", "slack.test", "/api/x", PARTS, '--b\r\nContent-Disposition: form-data; name="token"\r\n\r\nmine\r\n--b--\r\n', body_refused))
add(send("POST", "slack.test", "/api/x", PARTS, '--b\r\nContent-Disposition: form-data; name="text"\r\n\r\ntoken\r\n--b--\r\n', { status = 200 }))

-- ---- kept
add(get("keep.test", "/?access_token=mine", "X_Api_Key: mine\r\nX-Auth-Token: theirs\r\n", { status = 200,
  upstream = { line = "GET /?access_token=mine HTTP/1.1", header = { authorization = "Bearer canary-keep", ["x_api_key"] = "mine" }, head_not = "theirs" },
  log = { stripped = "x-auth-token" } }))
add(send("POST", "keep.test", "/?access_token=mine", "", "", { status = 200, upstream = { line = "POST /?access_token=mine HTTP/1.1" } }))

-- ---- a WebSocket's subprotocols
local switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
local function socket(host, protocols, upstream, log)
  add({ name = host .. " WebSocket " .. protocols:gsub("%s+", " "), host = host, send = { upgrade(host, protocols), { ["until"] = "101" }, "hi", { ["until"] = "hi" } },
    upstream = { reply = { { steps = { switch, { relay = true } } } } }, expect = { raw_has = "101", upstream = upstream, log = log } })
end
local function left(text)
  return { header = { authorization = "Bearer canary-bearer", ["sec-websocket-protocol"] = text }, head_not = "mine" }
end
socket("bearer.test", "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.mine, openai-beta.realtime-v1\r\n", left "realtime, openai-beta.realtime-v1",
  { stripped = "sec-websocket-protocol" })
socket("bearer.test", "Sec-WebSocket-Protocol: realtime\r\nSec-WebSocket-Protocol: OpenAI-Insecure-Api-Key.mine\r\n", left "realtime", { stripped = "sec-websocket-protocol" })
socket("bearer.test", "Sec-WebSocket-Protocol: token, mine\r\n", { header = { authorization = "Bearer canary-bearer" }, head_not = "mine" },
  { stripped = "sec-websocket-protocol" })
socket("bearer.test", "Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.mine, base64.binary.k8s.io\r\n", left "base64.binary.k8s.io",
  { stripped = "sec-websocket-protocol" })
socket("bearer.test", "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.${ENV:BEARER_TOKEN}\r\n", left "realtime", { path = "/ws", status = 101 })
socket("bearer.test", "Sec-WebSocket-Protocol: graphql-ws, chat\r\n", left "graphql-ws, chat", { path = "/ws", status = 101 })
socket("own.test", "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.mine\r\n",
  { header = { ["sec-websocket-protocol"] = "realtime, openai-insecure-api-key.mine" }, head_not = "canary" }, { path = "/ws", status = 101 })

-- ---- attach=placeholder
local function attached(name) return { status = 200, upstream = { header = { authorization = "Bearer canary-" .. name }, head_not = "mine" } } end
for _, name in ipairs { "strict", "own" } do
  local host, env = name .. ".test", "${ENV:" .. name:upper() .. "_TOKEN}"
  add(get(host, "/s", "Authorization: Bearer " .. env .. "\r\n", attached(name)))
  add(get(host, "/s", "Authorization: Basic " .. "bWU6bWluZQ==" .. "\r\n", name == "strict" and refused "authorization" or passed { authorization = "Basic bWU6bWluZQ==" }))
  add(get(host, "/s", "", attached(name), "no key at all"))
  add(get(host, "/s", "X-Team: mine\r\n", attached(name), "a header of the credential's own is no key"))
  add(get(host, "/s", "X-Api-Key: " .. env .. "\r\nAuthorization: Bearer mine\r\n", attached(name), "the placeholder somewhere, another key beside it"))
  add(get(host, "/s?access_token=" .. env, "", attached(name)))
  add(send("POST", host, "/s", "", "", attached(name)))
end
for _, fields in ipairs { "Authorization: Bearer mine\r\n", "X-Api-Key: mine\r\n", "X_Vault_Token: mine\r\n" } do
  add(get("strict.test", "/s", fields, refused(fields:match("^[^:]+"):lower():gsub("_", "-"))))
end
add(get("strict.test", "/s?access_token=mine", "", refused "?access_token"))
add(get("own.test", "/s/1?access_token=mine&x=1", "X-Api-Key: mine\r\nAuthorization: Bearer sess-123\r\n",
  passed({ authorization = "Bearer sess-123", ["x-api-key"] = "mine" }, { line = "GET /s/1?access_token=mine&x=1 HTTP/1.1", no_header = "x-team" })))
add({ name = "what passes has a record of its own", host = "own.test", send = "POST /s HTTP/1.1\r\nHost: own.test\r\nAuthorization: Bearer sess-123\r\nContent-Length: 2\r\n\r\nhi",
  expect = { status = 200, upstream = { header = { authorization = "Bearer sess-123" }, raw_body = "hi" },
             log = { reason = "a key of its own: own", decision = "allow", bundle = "default" } } })
add(get("own.test", "/other", "Authorization: Bearer mine\r\n", { status = 403, error = "path_not_allowed", upstream = "nothing" }, "rules hold for what passes"))
add(get("own.test", "/s/%2e%2e/x", "Authorization: Bearer mine\r\n", { status = 400, error = "ambiguous_path", upstream = "nothing" }))
add(send("DELETE", "own.test", "/s", "Authorization: Bearer mine\r\n", "", { status = 403, error = "method_not_allowed", upstream = "nothing" }))
add(get("own.test", "/s?_method=DELETE&a=1", "Authorization: Bearer mine\r\nX-HTTP-Method-Override: DELETE\r\n",
  passed({ authorization = "Bearer mine" }, { line = "GET /s?a=1 HTTP/1.1", no_header = "x-http-method-override" })))
add(get("s3.test", "/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAFOREIGN%2F20260101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20260101T000000Z"
  .. "&X-Amz-Expires=600&X-Amz-SignedHeaders=host&X-Amz-Signature=00", "", passed({}, { head_has = "X-Amz-Credential=AKIAFOREIGN%2F" }), "a presigned URL of somebody else's"))

return {
  shared = {
    hosts = { "bearer.test", "basic.test", "key.test", "param.test", "rows.test", "open.test", "slack.test", "keep.test", "strict.test", "own.test", "s3.test" },
    domains = { { host = "open.test" } },
    credentials = {
      { name = "bearer", type = "bearer", host = "bearer.test", env = "BEARER_TOKEN", secrets = { token = "canary-bearer" } },
      { name = "basic", type = "basic", host = "basic.test", fields = { username = "me" }, secrets = { password = "canary-basic" } },
      { name = "key", type = "api_key", host = "key.test", fields = { header = "x-own" }, secrets = { key = "canary-key" } },
      { name = "param", type = "body_parameter", host = "param.test", fields = { name = "key", ["in"] = "query" }, secrets = { value = "canary-param" } },
      { name = "rows", type = "substitute", host = "rows.test", substitute = "value:header=X-Own:__PLACEHOLDER__", secrets = { value = "canary-rows" } },
      { name = "slack", preset = "slack", host = "slack.test", secrets = { token = "canary-slack" } },
      { name = "keep", type = "bearer", host = "keep.test", fields = { keep = "X-Api-Key,access_token" }, secrets = { token = "canary-keep" } },
      { name = "strict", type = "bearer", host = "strict.test", env = "STRICT_TOKEN", path = "/s",
        fields = { attach = "placeholder", ["headers.X-Team"] = "blue" }, secrets = { token = "canary-strict" } },
      { name = "own", type = "bearer", host = "own.test", env = "OWN_TOKEN", path = { "/s", "/ws" }, method = { "GET", "POST", "WEBSOCKET" },
        fields = { attach = "placeholder:own", ["headers.X-Team"] = "blue" }, secrets = { token = "canary-own" } },
      { name = "s3", type = "aws_sigv4", host = "s3.test", fields = { access_key_id = "AKIAOURS", region = "us-east-1", service = "s3", attach = "placeholder:own" },
        secrets = { secret_access_key = "canary-s3-secret-key" } },
    },
  },
  cases = cases,
}
