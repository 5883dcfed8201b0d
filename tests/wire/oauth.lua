--- oauth_client_credentials: the token is got, kept, renewed; and every answer a token endpoint may give.
local get = "GET /x HTTP/1.1\r\nHost: api.test\r\n\r\n"
local function setup(fields, more)
  local c = { name = "cc", type = "oauth_client_credentials", host = "api.test",
              fields = { token_url = "https://auth.test/token", client_id = "id" }, secrets = { client_secret = "canary-client-secret" } }
  for k, v in pairs(fields or {}) do c.fields[k] = v end
  for k, v in pairs(more or {}) do c[k] = v end
  return c
end
local servers = { auth = { host = "auth.test" } }
local function token(name, seconds) return ('{"access_token":"%s","token_type":"Bearer","expires_in":%s}'):format(name, seconds or 3600) end

local cases = {}
local function case(c)
  c.credential = c.credential or setup()
  c.servers = c.servers or servers
  c.send = c.send or get
  c.canaries = { "canary-t1", "canary-t2" }
  cases[#cases + 1] = c
end

case { name = "the token is got once and goes out", token_endpoint = { token "canary-t1" }, send = { get, { answers = 1 }, get },
  expect = { statuses = { 200, 200 }, token_requests = 1, upstream = { requests = 2, header = { authorization = "Bearer canary-t1" } } } }
case { name = "100 requests over two workers on one expired token: one refresh", workers = 2, credential = setup { scrub = "off" }, token_endpoint = { { { steps = { 0.5 } } }, token "canary-t1" },
  agents = { { name = "a" }, { name = "b" } },   -- one alone may have 64 in progress in a worker
  client = { { times = 50 }, { times = 50, token = "b" } }, servers = { auth = { host = "auth.test", delay = 0.5 } },
  expect = { status = 200, token_requests = 1, upstream = { requests = 100, header = { authorization = "Bearer canary-t1" } } } }
cases[#cases].token_endpoint = { token "canary-t1" }
case { name = "an expired token is renewed before it is used", token_endpoint = { token "canary-t1", token "canary-t2" },
  send = { get, { answers = 1 }, { clock = 3700 }, 0.1, get },
  expect = { statuses = { 200, 200 }, token_requests = 2, upstream = { header = { authorization = "Bearer canary-t2" } } } }
case { name = "a token near its end still serves when the renewal fails", token_endpoint = { token "canary-t1", { status = 500 } },
  send = { get, { answers = 1 }, { clock = 3400 }, 0.1, get },
  expect = { statuses = { 200, 200 }, upstream = { header = { authorization = "Bearer canary-t1" } } } }
case { name = "the request to the token endpoint: basic", token_endpoint = { token "canary-t1" }, credential = setup { scopes = "read write", audience = "aud", ["params.x"] = "y z" },
  expect = { status = 200, servers = { auth = { line = "POST /token HTTP/1.1", body = "grant_type=client_credentials&scope=read+write&audience=aud&x=y+z",
    header = { authorization = "Basic aWQ6Y2FuYXJ5LWNsaWVudC1zZWNyZXQ=", ["content-type"] = "application/x-www-form-urlencoded" } } } } }
case { name = "the request to the token endpoint: post", token_endpoint = { token "canary-t1" }, credential = setup { auth_method = "post", resource = "https://api.test/" },
  expect = { status = 200, servers = { auth = { body = "grant_type=client_credentials&client_id=id&client_secret=canary-client-secret&resource=https%3A%2F%2Fapi.test%2F", no_header = "authorization" } } } }
case { name = "the request to the token endpoint: JSON", token_endpoint = { token "canary-t1" }, credential = setup { token_body = "json", auth_method = "post" },
  expect = { status = 200, servers = { auth = { header = { ["content-type"] = "application/json" } } } } }
case { name = "token_type in any case", token_endpoint = { '{"access_token":"canary-t1","token_type":"BEARER","expires_in":3600}' }, expect = { status = 200 } }
case { name = "token_type absent", token_endpoint = { '{"access_token":"canary-t1","expires_in":3600}' }, expect = { status = 200 } }
case { name = "another token_type", token_endpoint = { '{"access_token":"canary-t1","token_type":"mac","expires_in":3600}' }, expect = { answers = 1, raw_has = { "HTTP/1.1 50", "X-Sallyport-Error" }, upstream = "nothing" } }
case { name = "a quoted expires_in", token_endpoint = { token("canary-t1", '"3600"'), token "canary-t2" }, send = { get, { answers = 1 }, { clock = 3700 }, 0.1, get },
  expect = { statuses = { 200, 200 }, token_requests = 2 } }
case { name = "no expires_in is the type's ttl", token_endpoint = { '{"access_token":"canary-t1"}', token "canary-t2" }, send = { get, { answers = 1 }, { clock = 310 }, 0.1, get },
  expect = { statuses = { 200, 200 }, token_requests = 2 } }
for _, v in ipairs { "-1", "0", "null", '"soon"', "true", "{}", "1e400", "-1e400" } do
  case { name = "expires_in of " .. v .. " counts as absent", token_endpoint = { token("canary-t1", v), token "canary-t2" }, send = { get, { answers = 1 }, { clock = 310 }, 0.1, get },
    expect = { statuses = { 200, 200 }, token_requests = 2 } }
end
case { name = "an expires_in of a century is 30 days", token_endpoint = { token("canary-t1", "3153600000"), token "canary-t2" },
  send = { get, { answers = 1 }, { clock = 2592100 }, 0.1, get }, expect = { statuses = { 200, 200 }, token_requests = 2 } }

local function fails(name, answer, status, code, more)
  local c = { name = "the token endpoint " .. name, token_endpoint = { answer }, expect = { status = status, error = code, upstream = "nothing", body_not = { "canary" } } }
  for k, v in pairs(more or {}) do c[k] = v end
  case(c)
end
fails("answers invalid_client", { status = 401, body = '{"error":"invalid_client","error_description":"canary-text"}' }, 502, "oauth_refresh_failed", { canaries = { "canary-text" } })
fails("answers invalid_grant", { status = 400, body = '{"error":"invalid_grant"}' }, 502, "oauth_refresh_failed")
fails("answers unauthorized_client", { status = 400, body = '{"error":"unauthorized_client"}' }, 502, "oauth_refresh_failed")
fails("answers 200 with error", '{"error":"invalid_client","access_token":"canary-t1"}', 502, "oauth_refresh_failed")
fails("answers 500", { status = 500, body = "canary-text" }, 503, "injection_unavailable")
fails("answers 429", { status = 429, headers = { ["Retry-After"] = "7" } }, 503, "injection_unavailable")
fails("closes", { steps = { { close = true } } }, 503, "injection_unavailable")
fails("resets", { steps = { { reset = true } } }, 503, "injection_unavailable")
for _, row in ipairs {
  { "answers 200 without access_token", '{"token_type":"Bearer"}' },
  { "answers an access_token that is a number", '{"access_token":5}' },
  { "answers an access_token that is empty", '{"access_token":""}' },
  { "answers an access_token twice", '{"access_token":"canary-t1","access_token":"canary-t2"}' },
  { "answers HTML", { body = "<html>sign in</html>", type = "text/html" } },
  { "answers half JSON", { body = '{"access_token":"canary-t1"' } },
  { "answers nothing", { body = "" } },
  { "answers a list", { body = "[1]" } },
  { "answers 204", { steps = { "HTTP/1.1 204 No Content\r\n\r\n" } } },
  { "redirects", { status = 302, headers = { Location = "https://api.test/steal" } } },
  { "redirects with 307", { status = 307, headers = { Location = "https://api.test/steal" } } },
  { "answers 2 MiB", { steps = { "HTTP/1.1 200 OK\r\nContent-Length: 2097152\r\n\r\n", { ["repeat"] = (" "):rep(65536), times = 32 } } } },
  { "answers 2 MiB in chunks", { steps = { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", { ["repeat"] = "10000\r\n" .. (" "):rep(65536) .. "\r\n", times = 32 }, "0\r\n\r\n" } } },
  { "answers JSON 100,000 deep", { body = ("["):rep(100000) } },
} do
  case { name = "the token endpoint " .. row[1], token_endpoint = { row[2] },
    expect = { answers = 1, raw_has = { "HTTP/1.1 50", "X-Sallyport-Error: " }, raw_not = { "canary-t", "x-evil", "\r\n\r\n<html" }, upstream = "nothing" } }
end
-- What no header may hold is refused when it comes, so that it is asked for again and never stands in the store.
for name, member in pairs { ["a line end"] = '"access_token":"canary-bad\\r\\nx-evil: 1"', ["NUL"] = '"access_token":"canary-bad\\u0000"', ["ESC"] = '"access_token":"\\u001bcanary-bad"',
    ["DEL"] = '"access_token":"canary-bad\127"', ["a tab"] = '"access_token":"canary\\tbad"', ["LF alone"] = '"access_token":"\\n"', ["a refresh token with LF"] = '"access_token":"canary-bad","refresh_token":"a\\nb"' } do
  case { name = "the token endpoint answers " .. name .. ": asked again, not kept", token_endpoint = { '{' .. member .. ',"expires_in":3600}', token "canary-t1" },
    send = { get, { answers = 1 }, 2.5, get }, expect = { statuses = { 502, 200 }, token_requests = 2, upstream = { header = { authorization = "Bearer canary-t1" } }, log_never = { "canary-bad", "x-evil" } } }
end
case { name = "the token endpoint is down", servers = { auth = { host = "auth.test", refuse = true } }, expect = { status = 503, error = "injection_unavailable", headers = { ["retry-after"] = nil }, upstream = "nothing" } }
case { name = "the token endpoint has a bad certificate", servers = { auth = { host = "auth.test", tls = "expired" } },
  expect = { answers = 1, raw_has = { "HTTP/1.1 50", "X-Sallyport-Error: " }, upstream = "nothing", servers = { auth = "nothing" } } }
case { name = "the token endpoint is slow: an answer within 10 s or so", servers = { auth = { host = "auth.test", at_connect = "stall" } }, timeout = 20,
  expect = { status = 503, error = "injection_unavailable", upstream = "nothing", within = 15 } }
case { name = "a final refusal is not asked again", token_endpoint = { { status = 400, body = '{"error":"invalid_client"}' } }, send = { get, { answers = 1 }, get, { answers = 2 }, get },
  expect = { statuses = { 502, 502, 502 }, error = "oauth_refresh_failed", token_requests = 1, upstream = "nothing" } }
case { name = "a refusal that may pass is asked again after a while", token_endpoint = { { status = 503 }, token "canary-t1" }, send = { get, { answers = 1 }, 2.5, get },
  expect = { statuses = { 503, 200 }, token_requests = 2, upstream = { header = { authorization = "Bearer canary-t1" } } } }
case { name = "a caller that hangs up cancels nothing", token_endpoint = { token "canary-t1" }, servers = { auth = { host = "auth.test", delay = 0.6 } },
  client = { { send = { get, 0.1, { reset = true } }, expect = {} }, { send = { 1.2, get }, expect = { status = 200 } } },
  expect = { token_requests = 1, upstream = { requests = 1 } } }
case { name = "upstream's 401 drops the token, at most once a minute, and the next request renews it",
  upstream = { reply = { { body = "1" }, { status = 401, headers = { ["WWW-Authenticate"] = "Bearer error=\"invalid_token\"" }, body = "no" }, { body = "ok" } } },
  token_endpoint = { token "canary-t1", token "canary-t2" }, send = { get, { answers = 1 }, { clock = 90 }, 0.1, get, { answers = 2 }, 0.3, get },
  expect = { statuses = { 200, 401, 200 }, token_requests = 2, upstream = { requests = 3, header = { authorization = "Bearer canary-t2" } } } }
case { name = "a 401 on a token just issued drops nothing", upstream = { reply = { { status = 401, body = "no" } } }, token_endpoint = { token "canary-t1", token "canary-t2" },
  send = { get, { answers = 1 }, 0.2, get }, expect = { statuses = { 401, 401 }, token_requests = 1 } }
case { name = "a request to the credential's own token endpoint carries nothing", credential = setup({}, { host = { "api.test", "auth.test" } }), host = "auth.test",
  token_endpoint = { token "canary-t1" }, send = "POST /token HTTP/1.1\r\nHost: auth.test\r\nContent-Length: 0\r\n\r\n",
  expect = { status = 403, error = "token_endpoint", token_requests = 0 } }
case { name = "another path of the token endpoint's host is served", credential = setup({}, { host = { "api.test", "auth.test" } }), host = "auth.test",
  token_endpoint = { token "canary-t1", "echo" }, send = "GET /userinfo HTTP/1.1\r\nHost: auth.test\r\n\r\n",
  expect = { status = 200, servers = { auth = { line = "GET /userinfo HTTP/1.1", header = { authorization = "Bearer canary-t1" } } } } }

return cases
