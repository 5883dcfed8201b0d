--- Rows: a placeholder becomes its secret where the sandbox wrote it, escaped for the place; what an answer repeats
-- of it becomes again what the client had sent; and a placeholder that belongs elsewhere goes nowhere.
local function get(name, host, target, fields, upstream, more)
  local c = { name = name, host = host, send = "GET " .. target .. " HTTP/1.1\r\nHost: " .. host .. "\r\n" .. (fields or "") .. "\r\n",
              expect = { status = 200, upstream = upstream } }
  for k, v in pairs(more or {}) do c.expect[k] = v end
  return c
end

local function post(name, host, kind, body, want, more)
  local c = { name = name, host = host,
              send = "POST /b HTTP/1.1\r\nHost: " .. host .. "\r\nContent-Type: " .. kind .. "\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body,
              expect = { status = 200, upstream = { body = want, header = { ["content-length"] = tostring(#want) } } } }
  for k, v in pairs(more or {}) do c[k] = v end
  return c
end

-- An answer whose head repeats what the request had, and what the client sees of it.
local function echoed(name, host, target, head, has, never)
  return { name = name, host = host, send = "GET " .. target .. " HTTP/1.1\r\nHost: " .. host .. "\r\n\r\n",
           upstream = { reply = { { steps = { "HTTP/1.1 302 Found\r\n" .. head .. "\r\nContent-Length: 0\r\n\r\n" } } } },
           expect = { status = 302, raw_has = has, raw_not = never or "canary" } }
end

local SECRET = "canary+1/2 &\\\"3:é"
return {
  shared = {
    hosts = { "head.test", "path.test", "query.test", "body.test", "set.test", "bear.test", "two.test", "add.test", "both.test", "free.test" },
    credentials = {
      { name = "head", type = "substitute", host = "head.test", secrets = { value = "canary-head" }, substitute = "value:header:__HEAD__" },
      { name = "path", type = "substitute", host = "path.test", secrets = { value = "canary:path/1" }, substitute = "value:path:1234:__PATH__" },
      { name = "query", type = "substitute", host = "query.test", secrets = { value = "canary q+/&1" }, substitute = "value:query,path:__QUERY:1__" },
      { name = "body", type = "substitute", host = "body.test", secrets = { value = SECRET }, substitute = "value:body:__BODY:1__" },
      { name = "set", type = "substitute", host = "set.test", secrets = { ["values.id"] = "canary-set-id", ["values.key"] = "canary-set-key" },
        substitute = { "values.id:header,query:__SHOP__", "values.key:header:__SHOP__KEY__" } },
      { name = "bear", type = "bearer", host = "bear.test", secrets = { token = "canary-bearer" }, substitute = "token:header,query:__BEAR__" },
      { name = "two", type = "substitute", host = "two.test", env = "TWO_TOKEN", placeholder = "two_{32}", secrets = { value = "canary-two" },
        substitute = "value:query" },
      { name = "twin", type = "substitute", host = "two.test", env = "TWIN_TOKEN", placeholder = "twin_{32}", secrets = { value = "canary-twin" },
        substitute = "value:path,header" },
      { name = "both", type = "body_parameter", host = "both.test", fields = { name = "key" }, secrets = { value = "canary-both" }, substitute = "value:body:__BOTH__" },
      { name = "add", type = "body_parameter", host = "add.test", fields = { name = "api[key]", ["in"] = "query" }, secrets = { value = "canary-added" } },
    },
    domains = { { host = "free.test", method = { "GET", "POST" } } },
  },
  cases = {
    -- headers
    get("in a header, whole", "head.test", "/", "X-Key: __HEAD__\r\n", { header = { ["x-key"] = "canary-head" } }),
    get("in a header, within other text", "head.test", "/", "Cookie: a=1; s=__HEAD__; b=__HEAD__x\r\n", { header = { cookie = "a=1; s=canary-head; b=canary-headx" } }),
    get("Authorization with the placeholder goes out rewritten", "head.test", "/", "Authorization: Token __HEAD__\r\n", { header = { authorization = "Token canary-head" } }),
    get("Authorization without it is stripped as ever", "head.test", "/", "Authorization: Bearer mine\r\n", { no_header = "authorization" }),
    get("a second Authorization does not ride along", "head.test", "/", "Authorization: Bearer mine\r\nAuthorization: Bearer __HEAD__\r\n",
      { header = { authorization = "Bearer canary-head" }, head_not = "mine" }),
    get("inside the base64 of Basic", "head.test", "/", "Authorization: Basic dXNlcjpfX0hFQURfXw==\r\n", { header = { authorization = "Basic dXNlcjpjYW5hcnktaGVhZA==" } }),
    get("what Basic holds elsewhere stays", "head.test", "/", "X-Basic: Basic dXNlcjpwYXNz\r\n", { header = { ["x-basic"] = "Basic dXNlcjpwYXNz" } }),
    get("a header is no query", "head.test", "/?a=__HEAD__", "", { line = "GET /?a=__HEAD__ HTTP/1.1" }),
    get("a field that Connection names is not brought back", "head.test", "/", "Connection: x-key\r\nX-Key: __HEAD__\r\n", { no_header = "x-key" }),
    get("of two placeholders the longer one counts", "set.test", "/?q=__SHOP__", "X-A: __SHOP__\r\nX-B: __SHOP__KEY__\r\n",
      { line = "GET /?q=canary-set-id HTTP/1.1", header = { ["x-a"] = "canary-set-id", ["x-b"] = "canary-set-key" } }),
    get("no row replaces in what the type attaches", "bear.test", "/", "Authorization: Bearer __BEAR__\r\nX-Copy: __BEAR__\r\n",
      { header = { authorization = "Bearer canary-bearer", ["x-copy"] = "canary-bearer" } }),
    -- path and query
    get("in a path, as Telegram has it", "path.test", "/bot1234:__PATH__/getMe?x=1", "", { line = "GET /botcanary:path%2F1/getMe?x=1 HTTP/1.1" },
      { log = { path = "/bot1234:__PATH__/getMe" } }),
    get("in a path, percent-encoded", "path.test", "/bot1234%3A__%50ATH__/getMe", "", { line = "GET /botcanary:path%2F1/getMe HTTP/1.1" }),
    get("in a query, escaped", "query.test", "/a?k=__QUERY:1__&z=%20+", "", { line = "GET /a?k=canary%20q%2B%2F%261&z=%20+ HTTP/1.1" }),
    get("in a query, percent-encoded", "query.test", "/a?k=%5F_QUERY%3a1__&__QUERY%3A1__=2", "", { line = "GET /a?k=canary%20q%2B%2F%261&canary%20q%2B%2F%261=2 HTTP/1.1" }),
    get("a byte of an escape begins nothing", "query.test", "/a?k=%25__QUERY:1__%5", "", { line = "GET /a?k=%25canary%20q%2B%2F%261%5 HTTP/1.1" }),
    -- bodies
    post("in JSON's strings, escaped", "body.test", "application/json", ' {"a": "x__BODY:1__y", "n": 1.0, "__BODY:1__": ["\\u005f_BODY\\u003A1__"]} ',
      ' {"a": "xcanary+1/2 &\\\\\\"3:éy", "n": 1.0, "canary+1/2 &\\\\\\"3:é": ["canary+1/2 &\\\\\\"3:é"]} '),
    post("in JSON by any other name", "body.test", "application/vnd.api+json; charset=utf-8", '"__BODY:1__"', '"canary+1/2 &\\\\\\"3:é"'),
    post("line by line", "body.test", "application/x-ndjson", '{"a":1}\n"__BODY:1__"\r\n\n[]', '{"a":1}\n"canary+1/2 &\\\\\\"3:é"\r\n\n[]'),
    post("in a form", "body.test", "application/x-www-form-urlencoded", "a=__BODY%3A1__&b=+", "a=canary%2B1%2F2%20%26%5C%223%3A%C3%A9&b=+"),
    post("in XML", "body.test", "text/xml", "<a b='__BODY:1__'>__BODY:1__<![CDATA[__BODY:1__]]>__BODY:1__</a>",
      "<a b='canary+1/2 &amp;\\&quot;3:é'>canary+1/2 &amp;\\&quot;3:é<![CDATA[" .. SECRET .. "]]>canary+1/2 &amp;\\&quot;3:é</a>"),
    post("in text", "body.test", "text/plain", "a __BODY:1__ b", "a " .. SECRET .. " b"),
    post("in a form of parts", "body.test", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=k\r\n\r\n__BODY:1__\r\n--x--\r\n",
      "--x\r\nContent-Disposition: form-data; name=k\r\n\r\n" .. SECRET .. "\r\n--x--\r\n"),
    post("a body without it goes as it came", "body.test", "application/json", '{"a": [1, "x"]', '{"a": [1, "x"]'),
    post("another type streams through", "body.test", "application/octet-stream", "__BODY:1__", "__BODY:1__"),
    { name = "a compressed body streams through", host = "body.test",
      send = "POST /b HTTP/1.1\r\nHost: body.test\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\nContent-Length: 10\r\n\r\n__BODY:1__",
      expect = { status = 200, upstream = { body = "__BODY:1__" } } },
    { name = "a chunked body gets a length", host = "body.test",
      send = "POST /b HTTP/1.1\r\nHost: body.test\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n__BOD\r\n5\r\nY:1__\r\n0\r\n\r\n",
      expect = { status = 200, upstream = { body = SECRET, header = { ["content-length"] = tostring(#SECRET) }, no_header = "transfer-encoding" } } },
    { name = "JSON that is none is refused where it holds a placeholder", host = "body.test",
      send = "POST /b HTTP/1.1\r\nHost: body.test\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"__BODY:1__\"",
      expect = { status = 400, error = "bad_request", upstream = "nothing" } },
    { name = "more than 1 MiB is refused", host = "body.test",
      send = "POST /b HTTP/1.1\r\nHost: body.test\r\nContent-Type: text/plain\r\nContent-Length: 1048577\r\n\r\n",
      expect = { status = 413, error = "body_too_large", upstream = "nothing" } },
    { name = "more than 1 MiB streams where no row looks", host = "body.test",
      send = { "POST /b HTTP/1.1\r\nHost: body.test\r\nContent-Type: image/png\r\nContent-Length: 1048577\r\n\r\n", { ["repeat"] = "x", times = 1048577 } },
      expect = { status = 200, upstream = { body_size = 1048577 } } },
    post("rows and a type that edits the body do not meet", "both.test", "application/json", '{"key":"__BOTH__","a":"__BOTH__"}', '{"key":"canary-both","a":"canary-both"}'),
    { name = "a token that refresh brought has rows too", host = "tok.test",
      credential = { name = "tok", type = "oauth_client_credentials", host = "tok.test", fields = { token_url = "https://auth.test/token", client_id = "id" },
                     secrets = { client_secret = "canary-client-secret" }, substitute = "access_token:query,body:__TOKEN__" },
      servers = { auth = { host = "auth.test" }, tok = { host = "tok.test", reply = { "echo" } } }, canaries = { "canary-fresh" }, hosts = { "unused.test" },
      token_endpoint = { '{"access_token":"canary-fresh","token_type":"Bearer","expires_in":3600}' },
      send = "POST /?t=__TOKEN__ HTTP/1.1\r\nHost: tok.test\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\n__TOKEN__",
      expect = { status = 200, servers = { tok = { line = "POST /?t=canary-fresh HTTP/1.1", header = { authorization = "Bearer canary-fresh" }, body = "canary-fresh" } } } },
    -- which of two
    get("the placeholder chooses among equals: query", "two.test", "/?t=${ENV:TWO_TOKEN}", "", { line = "GET /?t=canary-two HTTP/1.1" }, { log = { credential = "two" } }),
    get("the placeholder chooses among equals: path", "two.test", "/${ENV:TWIN_TOKEN}/x", "", { line = "GET /canary-twin/x HTTP/1.1" }, { log = { credential = "twin" } }),
    -- back again
    echoed("Location", "path.test", "/bot1234:__PATH__/getMe", "Location: https://path.test/botcanary:path/1/me?u=%2Fbotcanary%3Apath%2F1&v=%252Fbotcanary%253apath%252F1",
      "Location: https://path.test/bot1234:__PATH__/me?u=%2Fbot1234:__PATH__&v=%252Fbot1234:__PATH__"),
    echoed("the client's own spelling comes back", "path.test", "/bot1234%3A__PATH__/getMe", "location: /botcanary:path%2f1/", "location: /bot1234%3A__PATH__/"),
    echoed("Content-Location, Link, Refresh, Set-Cookie", "query.test", "/?a=__QUERY:1__",
      "Content-Location: /?a=canary+q%2B%2F%261\r\nLink: </?a=canary%20q%2B%2F%261&p=2>; rel=next\r\nRefresh: 0; url=/?a=canary%20q+/%261\r\nSet-Cookie: k=canary q+/&1; Path=/",
      { "Content-Location: /?a=__QUERY:1__\r\n", "Link: </?a=__QUERY:1__&p=2>; rel=next\r\n", "Refresh: 0; url=/?a=__QUERY:1__\r\n", "Set-Cookie: k=__QUERY:1__; Path=/\r\n" }),
    echoed("a parameter that we added leaves", "add.test", "/x?a=1", "Location: /y?a=1&api%5Bkey%5D=canary-added&b=2", "Location: /y?a=1&b=2\r\n"),
    echoed("a parameter that we added leaves, the last one too", "add.test", "/x", "Location: /y?api%5Bkey%5D=canary-added#f", "Location: /y#f\r\n"),
    echoed("a parameter that we replaced gets the client's value", "add.test", "/x?api%5Bkey%5D=my%20own", "Location: /y?api%5Bkey%5D=canary-added&c=canary-added",
      "Location: /y?api%5Bkey%5D=my%20own&c=my%20own\r\n"),
    echoed("other headers are the upstream's own", "head.test", "/", "X-Note: hello\r\nLocation: /a", "X-Note: hello\r\nLocation: /a"),
    -- told
    { name = "the agent is told where a placeholder may stand", via = "proxy", send = "GET /discover HTTP/1.1\r\nHost: 127.0.0.1:${PORT}\r\nAuthorization: Bearer ${TOKEN}\r\n\r\n",
      expect = { status = 200, body_has = { '"substitute":[{', '"placeholder":"__HEAD__"', '["query","path"]' } } },
    -- astray
    { name = "a placeholder of another credential, in a query", host = "head.test", send = "GET /?x=${ENV:TWO_TOKEN} HTTP/1.1\r\nHost: head.test\r\n\r\n",
      expect = { status = 403, error = "host_not_allowed", body_has = { "credential two (TWO_TOKEN)", "two.test" }, upstream = "nothing", log = { decision = "deny", credential = "head" } } },
    { name = "in a path, percent-encoded", host = "bear.test", send = "GET /a/%74wo_x/${ENV:TWIN_TOKEN}%2f HTTP/1.1\r\nHost: bear.test\r\n\r\n",
      expect = { status = 403, error = "host_not_allowed", body_has = "TWIN_TOKEN", upstream = "nothing" } },
    { name = "in a header", host = "bear.test", send = "GET / HTTP/1.1\r\nHost: bear.test\r\nX-Any: a${ENV:TWIN_TOKEN}b\r\n\r\n",
      expect = { status = 403, error = "host_not_allowed", upstream = "nothing" } },
    { name = "beside its own", host = "head.test", send = "GET / HTTP/1.1\r\nHost: head.test\r\nX-Any: __HEAD__ ${ENV:TWIN_TOKEN}\r\n\r\n",
      expect = { status = 403, error = "host_not_allowed", upstream = "nothing" } },
    get("in an Authorization that goes anyway", "bear.test", "/", "Authorization: Bearer ${ENV:TWO_TOKEN}\r\n", { header = { authorization = "Bearer canary-bearer" } }),
    get("its own host may see it", "two.test", "/?t=${ENV:TWO_TOKEN}&u=${ENV:TWIN_TOKEN}", "", { head_has = "t=canary-two&u=twin_" }),
    get("where no credential goes, nothing is looked for", "free.test", "/?t=${ENV:TWO_TOKEN}", "", { head_has = "/?t=two_" }),
  },
}
