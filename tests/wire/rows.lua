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
local JSON_SECRET = "canary+1/2 &\\\\\\\"3:é"

-- A part of a form of parts.
local function part(head, body) return "--x\r\n" .. head .. "\r\n\r\n" .. body .. "\r\n" end
local function named(name) return 'Content-Disposition: form-data; name="' .. name .. '"' end
local PARTS = "multipart/form-data; boundary=x"

-- A request that has the placeholder where no row says so: it goes out as it came.
local function stays(name, target, fields)
  return get(name, "places.test", target, fields, { head_has = "__PLACES__", head_not = "canary" })
end

-- A body that a server may read otherwise than we do, with a placeholder in it.
local function unreadable(name, kind, body)
  return { name = "refused: " .. name, host = "body.test",
           send = "POST /b HTTP/1.1\r\nHost: body.test\r\nContent-Type: " .. kind .. "\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body,
           expect = { status = 400, error = "bad_request", upstream = "nothing" } }
end

-- A server that repeats a field of the request in one of its own.
local function reflects(name, host, target, fields, answer, has, more)
  local c = { name = name, host = host, send = "GET " .. target .. " HTTP/1.1\r\nHost: " .. host .. "\r\n" .. (fields or "") .. "\r\n",
              upstream = { reply = { { steps = { answer } } } }, expect = { raw_has = has, raw_not = "canary" } }
  for k, v in pairs(more or {}) do c.expect[k] = v end
  return c
end
local function ok(fields) return "HTTP/1.1 200 OK\r\n" .. fields .. "\r\nContent-Length: 0\r\n\r\n" end

-- So many credentials of one host that a request's placeholders fill what is noted of them.
local full = ""
local function and_many(list)
  for i = 1, 16 do
    list[#list + 1] = { name = "many" .. i, type = "substitute", host = "many.test", env = "MANY_" .. i, secrets = { value = "canary-many-" .. i }, substitute = "value:header=X-Key" }
    full = full .. ("X-%d: ${ENV:MANY_%d}\r\n"):format(i, i)
  end
  return list
end

return {
  shared = {
    hosts = { "head.test", "path.test", "query.test", "body.test", "set.test", "bear.test", "two.test", "add.test", "both.test", "free.test",
              "places.test", "short.test", "basic.test", "user.test", "held.test", "mark.test", "many.test" },
    credentials = and_many {
      { name = "head", type = "substitute", host = "head.test", secrets = { value = "canary-head" },
        substitute = "value:header=X-Key,header=Authorization,basic:__HEAD__" },
      { name = "path", type = "substitute", host = "path.test", secrets = { value = "canary:path/1" },
        substitute = { "value:path=/bot{}/**:1234:__PATH__", "value:path=/file/*/{}.json:1234:__PATH__" } },
      { name = "query", type = "substitute", host = "query.test", secrets = { value = "canary q+/&1" }, substitute = "value:query=k,query=api%5Bkey%5D:__QUERY:1__" },
      { name = "body", type = "substitute", host = "body.test", secrets = { value = SECRET },
        substitute = "value:json=/auth/key,json=/list/1/a~1b,form=k:__BODY:1__" },
      { name = "set", type = "substitute", host = "set.test", secrets = { ["values.id"] = "canary-set-id", ["values.key"] = "canary-set-key" },
        substitute = { "values.id:header=X-A,query=q:__SHOP__", "values.key:header=X-B:__SHOP__KEY__" } },
      { name = "bear", type = "bearer", host = "bear.test", secrets = { token = "canary-bearer" }, substitute = "token:header=Authorization,header=X-Copy:__BEAR__" },
      { name = "two", type = "substitute", host = "two.test", env = "TWO_TOKEN", placeholder = "two_{32}", secrets = { value = "canary-two" },
        substitute = "value:query=t" },
      { name = "twin", type = "substitute", host = "two.test", env = "TWIN_TOKEN", placeholder = "twin_{32}", secrets = { value = "canary-twin" },
        substitute = "value:path=/{}/x,header=X-T" },
      { name = "both", type = "body_parameter", host = "both.test", fields = { name = "key" }, secrets = { value = "canary-both" }, substitute = "value:json=/a:__BOTH__" },
      { name = "add", type = "body_parameter", host = "add.test", fields = { name = "api[key]", ["in"] = "query" }, secrets = { value = "canary-added" } },
      { name = "places", type = "substitute", host = "places.test", secrets = { value = "canary-places" },
        substitute = "value:header=X-Api-Key,query=key,json=/a/b,form=token,path=/v1/{}/**:__PLACES__" },
      { name = "short", type = "substitute", host = "short.test", secrets = { value = "canary" }, substitute = "value:query=k:__SHORT__" },
      { name = "basic", type = "basic", host = "basic.test", env = "BASIC_TOKEN", placeholder = "basic_{20}", fields = { username = "me" },
        secrets = { password = "canary~basic?word" } },
      { name = "user", type = "substitute", host = "user.test", secrets = { value = "canary-either" }, substitute = "value:basic:__EITHER__" },
      { name = "mark", type = "api_key", host = "mark.test", secrets = { key = "canary-mark" } },
      { name = "held", type = "api_key", host = "held.test", env = "HELD_KEY", placeholder = "held_{20}", secrets = { key = "canary/held+key" } },
    },
    domains = { { host = "free.test", method = { "GET", "POST" } } },
  },
  cases = {
    -- headers
    get("in a header, whole", "head.test", "/", "X-Key: __HEAD__\r\n", { header = { ["x-key"] = "canary-head" } }),
    get("in a header, within other text", "head.test", "/", "x-key: a=1; s=__HEAD__; b=__HEAD__x\r\n", { header = { ["x-key"] = "a=1; s=canary-head; b=canary-headx" } }),
    get("Authorization with the placeholder goes out rewritten", "head.test", "/", "Authorization: Token __HEAD__\r\n", { header = { authorization = "Token canary-head" } }),
    get("Authorization without it is stripped as ever", "head.test", "/", "Authorization: Bearer mine\r\n", { no_header = "authorization" }),
    get("a second Authorization does not ride along", "head.test", "/", "Authorization: Bearer mine\r\nAuthorization: Bearer __HEAD__\r\n",
      { header = { authorization = "Bearer canary-head" }, head_not = "mine" }),
    get("inside the base64 of Basic", "head.test", "/", "Authorization: Basic dXNlcjpfX0hFQURfXw==\r\n", { header = { authorization = "Basic dXNlcjpjYW5hcnktaGVhZA==" } }),
    get("Basic: the user's half", "user.test", "/", "Authorization: Basic X19FSVRIRVJfXzp4\r\n", { header = { authorization = "Basic Y2FuYXJ5LWVpdGhlcjp4" } }),
    get("Basic is Authorization's alone", "user.test", "/", "X-Basic: Basic X19FSVRIRVJfXzp4\r\n", { header = { ["x-basic"] = "Basic X19FSVRIRVJfXzp4" } }),
    get("Basic is no Bearer", "user.test", "/", "Authorization: Bearer __EITHER__\r\n", { no_header = "authorization" }),
    get("what Basic holds elsewhere stays", "head.test", "/", "X-Basic: Basic dXNlcjpwYXNz\r\n", { header = { ["x-basic"] = "Basic dXNlcjpwYXNz" } }),
    get("a header is no query", "head.test", "/?a=__HEAD__", "", { line = "GET /?a=__HEAD__ HTTP/1.1" }),
    get("a field that Connection names is not brought back", "head.test", "/", "Connection: x-key\r\nX-Key: __HEAD__\r\n", { no_header = "x-key" }),
    get("of two placeholders each has its place", "set.test", "/?q=__SHOP__", "X-A: __SHOP__\r\nX-B: __SHOP__KEY__\r\n",
      { line = "GET /?q=canary-set-id HTTP/1.1", header = { ["x-a"] = "canary-set-id", ["x-b"] = "canary-set-key" } }),
    get("and none has the other's", "set.test", "/", "X-B: __SHOP__\r\n", { header = { ["x-b"] = "__SHOP__" } }),
    get("no row replaces in what the type attaches", "bear.test", "/", "Authorization: Bearer __BEAR__\r\nX-Copy: __BEAR__\r\n",
      { header = { authorization = "Bearer canary-bearer", ["x-copy"] = "canary-bearer" } }),
    -- where no row says so
    stays("not in Origin", "/", "Origin: https://__PLACES__\r\n"),
    stays("not in X-Request-Id", "/", "X-Request-Id: __PLACES__\r\n"),
    stays("not in Access-Control-Request-Headers", "/", "Access-Control-Request-Headers: __PLACES__\r\n"),
    stays("not in Cookie", "/", "Cookie: a=__PLACES__\r\n"),
    stays("not in Referer", "/", "Referer: https://places.test/__PLACES__\r\n"),
    stays("not in User-Agent", "/", "User-Agent: __PLACES__\r\n"),
    stays("not in If-None-Match", "/", 'If-None-Match: "__PLACES__"\r\n'),
    stays("not in Range", "/", "Range: __PLACES__=0-1\r\n"),
    stays("not in Accept-Language", "/", "Accept-Language: __PLACES__\r\n"),
    stays("not in X-Forwarded-For", "/", "X-Forwarded-For: __PLACES__\r\n"),
    stays("not in traceparent", "/", "traceparent: __PLACES__\r\n"),
    { name = "so often that its length could be told", host = "places.test",
      send = "GET / HTTP/1.1\r\nHost: places.test\r\nX-Api-Key: " .. ("__PLACES__"):rep(10) .. "\r\n\r\n",
      expect = { status = 502, error = "injection_failed", upstream = "nothing" } },
    stays("not in a field named almost so", "/", "X-Api-Keys: __PLACES__\r\nX_Api_Key: __PLACES__\r\n"),
    stays("not in another parameter", "/?q=__PLACES__", ""),
    stays("not in a parameter's name", "/?__PLACES__=key&key", ""),
    stays("not behind a semicolon, where another parameter begins for some", "/?key=1;q=__PLACES__", ""),
    stays("not in a parameter of another case", "/?Key=__PLACES__", ""),
    stays("not at the path's beginning", "/__PLACES__/v1", ""),
    stays("not deeper in the path", "/v1/x/__PLACES__", ""),
    stays("not beside other text in the path", "/v1/x%2F..%2Fy%2F__PLACES__/z", ""),
    stays("not behind dots in the path", "/v1/../v1/__PLACES__", ""),
    get("but in the parameter, however its name is written", "places.test", "/?%6bey=x%5F_PLACES__y&key=__PLACES__", "", { line = "GET /?%6bey=xcanary-placesy&key=canary-places HTTP/1.1" }),
    get("and in the path", "places.test", "/v1/__PL%41CES__", "", { line = "GET /v1/canary-places HTTP/1.1" }),
    -- path and query
    get("in a path, as Telegram has it", "path.test", "/bot1234:__PATH__/getMe?x=1", "", { line = "GET /botcanary:path%2F1/getMe?x=1 HTTP/1.1" },
      { log = { path = "/bot1234:__PATH__/getMe" } }),
    get("in a path, percent-encoded", "path.test", "/bot1234%3A__%50ATH__/getMe", "", { line = "GET /botcanary:path%2F1/getMe HTTP/1.1" }),
    get("in a second template", "path.test", "/file/any/1234:__PATH__.json", "", { line = "GET /file/any/canary:path%2F1.json HTTP/1.1" }),
    get("a star is one segment, and no dots", "path.test", "/file/../1234:__PATH__.json", "", { line = "GET /file/../1234:__PATH__.json HTTP/1.1" }),
    get("a template is the whole path", "path.test", "/file/any/1234:__PATH__.json/x", "", { line = "GET /file/any/1234:__PATH__.json/x HTTP/1.1" }),
    get("in a query, escaped", "query.test", "/a?k=__QUERY:1__&z=%20+", "", { line = "GET /a?k=canary%20q%2B%2F%261&z=%20+ HTTP/1.1" }),
    get("in a query, percent-encoded", "query.test", "/a?k=%5F_QUERY%3a1__&api[key]=__QUERY%3A1__2", "", { line = "GET /a?k=canary%20q%2B%2F%261&api[key]=canary%20q%2B%2F%2612 HTTP/1.1" }),
    get("a byte of an escape begins nothing", "query.test", "/a?k=%25__QUERY:1__%5", "", { line = "GET /a?k=%25canary%20q%2B%2F%261%5 HTTP/1.1" }),
    -- bodies
    post("in a member of JSON, escaped", "body.test", "application/json", ' {"a": "__BODY:1__", "n": 1.0, "auth": {"k": 1, "\\u006bey": "x\\u005f_BODY\\u003A1__y"}, "__BODY:1__": ["key"]} ',
      ' {"a": "__BODY:1__", "n": 1.0, "auth": {"k": 1, "\\u006bey": "x' .. JSON_SECRET .. 'y"}, "__BODY:1__": ["key"]} '),
    post("in a list of JSON, by number", "body.test", "application/json", '{"list":["__BODY:1__",{"a/b":"__BODY:1__","c":"__BODY:1__"},{"a/b":"__BODY:1__"}]}',
      '{"list":["__BODY:1__",{"a/b":"' .. JSON_SECRET .. '","c":"__BODY:1__"},{"a/b":"__BODY:1__"}]}'),
    post("not deeper, not above, not in another case", "body.test", "application/json",
      '{"key":"__BODY:1__","auth":{"key":{"key":"__BODY:1__"},"Key":"__BODY:1__"},"x":{"auth":{"key":"__BODY:1__"}}}',
      '{"key":"__BODY:1__","auth":{"key":{"key":"__BODY:1__"},"Key":"__BODY:1__"},"x":{"auth":{"key":"__BODY:1__"}}}'),
    post("in JSON by any other name", "body.test", "application/vnd.api+json; charset=utf-8", '{"auth":{"key":"__BODY:1__"}}', '{"auth":{"key":"' .. JSON_SECRET .. '"}}'),
    post("line by line", "body.test", "application/x-ndjson", '{"a":1}\n{"auth":{"key":"__BODY:1__"}}\r\n\n[]', '{"a":1}\n{"auth":{"key":"' .. JSON_SECRET .. '"}}\r\n\n[]'),
    post("in a form", "body.test", "application/x-www-form-urlencoded", "a=__BODY%3A1__&k=__BODY%3A1__&b=+", "a=__BODY%3A1__&k=canary%2B1%2F2%20%26%5C%223%3A%C3%A9&b=+"),
    post("no XML, and no text", "body.test", "text/xml", "<a b='__BODY:1__'>__BODY:1__</a>", "<a b='__BODY:1__'>__BODY:1__</a>"),
    post("no GraphQL", "body.test", "application/graphql", "{ k(key: \"__BODY:1__\") }", "{ k(key: \"__BODY:1__\") }"),
    post("in a form of parts", "body.test", PARTS, part(named "k", "__BODY:1__") .. part(named "note", "__BODY:1__") .. "--x--\r\n",
      part(named "k", SECRET) .. part(named "note", "__BODY:1__") .. "--x--\r\n"),
    post("no file, though it has the name", "body.test", PARTS, part(named "k" .. '; filename="k"', "__BODY:1__") .. "--x--", part(named "k" .. '; filename="k"', "__BODY:1__") .. "--x--"),
    post("no part with two names", "body.test", PARTS, part(named "k" .. "\r\n" .. named "note", "__BODY:1__") .. "--x--",
      part(named "k" .. "\r\n" .. named "note", "__BODY:1__") .. "--x--"),
    post("no part whose lines could be another's", "body.test", PARTS, part(named "k", "a\n--x\n" .. named "note" .. "\n\n__BODY:1__") .. "--x--",
      part(named "k", "a\n--x\n" .. named "note" .. "\n\n__BODY:1__") .. "--x--"),
    { name = "a form of parts with two boundaries is refused where it holds a placeholder", host = "body.test",
      send = "POST /b HTTP/1.1\r\nHost: body.test\r\nContent-Type: multipart/form-data; boundary=x; boundary=y\r\nContent-Length: 10\r\n\r\n__BODY:1__",
      expect = { status = 400, error = "bad_request", upstream = "nothing" } },
    { name = "a member that is there twice is refused: which counts is the server's choice", host = "body.test",
      send = 'POST /b HTTP/1.1\r\nHost: body.test\r\nContent-Type: application/json\r\nContent-Length: 47\r\n\r\n{"auth":{"key":"__BODY:1__"},"auth":{"key":""}}',
      expect = { status = 400, error = "bad_request", upstream = "nothing" } },
    unreadable("a charset in which other letters are quotes", "application/json; charset=utf-7", '{"auth":{"key":"+ACI-,+ACI-note+ACI-:+ACI-__BODY:1__"}}'),
    unreadable("a charset in which other letters part pairs", "application/x-www-form-urlencoded; charset=ibm037", "k=aP\x95\x96\xa3\x85~__BODY:1__"),
    unreadable("two types", "application/json\r\nContent_Type: text/plain", '{"auth":{"key":"__BODY:1__"}}'),
    unreadable("a malformed type", "application/json; urlencoded", '{"auth":{"key":"__BODY:1__"}}'),
    post("nor by its escape", "body.test", "application/json; charset=utf-16", '{"auth":{"key":"\\u005f_BODY:1__"}}', '{"auth":{"key":"\\u005f_BODY:1__"}}'),
    post("but in any charset that has ASCII", "body.test", 'application/json; charset="ISO-8859-1"', '{"auth":{"key":"__BODY:1__"}}', '{"auth":{"key":"' .. JSON_SECRET .. '"}}'),
    post("a body without it goes as it came", "body.test", "application/json", '{"a": [1, "x"]', '{"a": [1, "x"]'),
    post("another type streams through", "body.test", "application/octet-stream", "__BODY:1__", "__BODY:1__"),
    { name = "a compressed body streams through", host = "body.test",
      send = "POST /b HTTP/1.1\r\nHost: body.test\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 10\r\n\r\n__BODY:1__",
      expect = { status = 200, upstream = { body = "__BODY:1__" } } },
    { name = "a chunked body gets a length", host = "body.test",
      send = "POST /b HTTP/1.1\r\nHost: body.test\r\nContent-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nk=__BOD\r\n5\r\nY:1__\r\n0\r\n\r\n",
      expect = { status = 200, upstream = { body = "k=canary%2B1%2F2%20%26%5C%223%3A%C3%A9", header = { ["content-length"] = "38" }, no_header = "transfer-encoding" } } },
    { name = "JSON that is none is refused where it holds a placeholder", host = "body.test",
      send = "POST /b HTTP/1.1\r\nHost: body.test\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"__BODY:1__\"",
      expect = { status = 400, error = "bad_request", upstream = "nothing" } },
    { name = "more than 1 MiB is read too", host = "body.test",
      send = { 'POST /b HTTP/1.1\r\nHost: body.test\r\nContent-Type: application/json\r\nContent-Length: 3000033\r\n\r\n{"auth":{"key":"__BODY:1__","a":"', { ["repeat"] = "x", times = 2999997 }, '"}}' },
      expect = { status = 200, upstream = { body_size = 3000023 + #JSON_SECRET } } },
    { name = "more than body-max is refused before it is read, by the row's name", host = "body.test",
      send = "POST /b HTTP/1.1\r\nHost: body.test\r\nContent-Type: application/json\r\nContent-Length: 16777217\r\n\r\n",
      expect = { status = 413, error = "body_too_large", upstream = "nothing", body_has = "16m (body-max)", raw_has = "at json=/auth/key", raw_not = "100 Continue" } },
    { name = "more than 1 MiB streams where no row looks", host = "body.test",
      send = { "POST /b HTTP/1.1\r\nHost: body.test\r\nContent-Type: text/plain\r\nContent-Length: 1048577\r\n\r\n", { ["repeat"] = "x", times = 1048577 } },
      expect = { status = 200, upstream = { body_size = 1048577 } } },
    post("rows and a type that edits the body do not meet", "both.test", "application/json", '{"key":"__BOTH__","a":"__BOTH__"}', '{"key":"canary-both","a":"canary-both"}'),
    { name = "a token that refresh brought has rows too", host = "tok.test",
      credential = { name = "tok", type = "oauth_client_credentials", host = "tok.test", fields = { token_url = "https://auth.test/token", client_id = "id" },
                     secrets = { client_secret = "canary-client-secret" }, substitute = "access_token:query=t,form=t:__TOKEN__" },
      servers = { auth = { host = "auth.test" }, tok = { host = "tok.test", reply = { "echo" } } }, canaries = { "canary-fresh" }, hosts = { "unused.test" },
      token_endpoint = { '{"access_token":"canary-fresh","token_type":"Bearer","expires_in":3600}' },
      send = "POST /?t=__TOKEN__ HTTP/1.1\r\nHost: tok.test\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 11\r\n\r\nt=__TOKEN__",
      expect = { status = 200, servers = { tok = { line = "POST /?t=canary-fresh HTTP/1.1", header = { authorization = "Bearer canary-fresh" }, body = "t=canary-fresh" } } } },
    { name = "and it does not come back in a head", host = "tok2.test",
      credential = { name = "tok2", type = "oauth_client_credentials", host = "tok2.test", fields = { token_url = "https://auth.test/token", client_id = "id" },
                     secrets = { client_secret = "canary-client-secret" } },
      servers = { auth = { host = "auth.test" }, tok2 = { host = "tok2.test", reply = { { steps = { ok "X-Seen: Bearer canary-fresh, Y2FuYXJ5LWZyZXNo\r\nX-Too: canary%2dclient-secret" } } } } },
      canaries = { "canary-fresh" }, hosts = { "unused.test" }, token_endpoint = { '{"access_token":"canary-fresh","token_type":"Bearer","expires_in":3600}' },
      send = "GET / HTTP/1.1\r\nHost: tok2.test\r\n\r\n",
      expect = { status = 200, raw_has = { "X-Seen: Bearer sp_ph_", ", sp_ph_", "X-Too: sp_ph_" }, raw_not = { "canary", "Y2FuYXJ5" } } },
    { name = "nor does what was signed for this very request", host = "hmac.test",   -- HMAC-SHA-256 of "GET", by Python
      credential = { name = "hmac", type = "hmac", host = "hmac.test", fields = { string = "{method}", ["set.X-Sign"] = "v1 {signature}" }, secrets = { key = "canary-hmac-key" } },
      hosts = { "hmac.test" }, upstream = { reply = { { steps = { ok "X-Seen: v=a0bda9cc173a9a91126c4cb33c0a6d76a667d79dd7499d22fd0ec1c9fe2d0f66;" } } } },
      send = "GET / HTTP/1.1\r\nHost: hmac.test\r\n\r\n",
      expect = { status = 200, raw_has = "X-Seen: v=__SALLYPORT_SECRET__;\r\n", raw_not = "a0bda9cc173a9a91126c4cb33c0a6d76a667d79dd7499d22fd0ec1c9fe2d0f66",
                 upstream = { header = { ["x-sign"] = "v1 a0bda9cc173a9a91126c4cb33c0a6d76a667d79dd7499d22fd0ec1c9fe2d0f66" } } } },
    -- which of two
    get("the placeholder chooses among equals: query", "two.test", "/?t=${ENV:TWO_TOKEN}", "", { line = "GET /?t=canary-two HTTP/1.1" }, { log = { credential = "two" } }),
    get("the placeholder chooses among equals: path", "two.test", "/${ENV:TWIN_TOKEN}/x", "", { line = "GET /canary-twin/x HTTP/1.1" }, { log = { credential = "twin" } }),
    -- back again
    echoed("Location", "path.test", "/bot1234:__PATH__/getMe", "Location: https://path.test/botcanary:path/1/me?u=%2Fbotcanary%3Apath%2F1&v=%252Fbotcanary%253apath%252F1",
      "Location: https://path.test/bot1234:__PATH__/me?u=%2Fbot1234:__PATH__&v=%252Fbot1234:__PATH__"),
    echoed("the client's own spelling comes back", "path.test", "/bot1234%3A__PATH__/getMe", "location: /botcanary:path%2f1/", "location: /bot1234%3A__PATH__/"),
    echoed("Content-Location, Link, Refresh, Set-Cookie", "query.test", "/?k=__QUERY:1__",
      "Content-Location: /?a=canary+q%2B%2F%261\r\nLink: </?a=canary%20q%2B%2F%261&p=2>; rel=next\r\nRefresh: 0; url=/?a=canary%20q+/%261\r\nSet-Cookie: k=canary q+/&1; Path=/",
      { "Content-Location: /?a=__QUERY:1__\r\n", "Link: </?a=__QUERY:1__&p=2>; rel=next\r\n", "Refresh: 0; url=/?a=__QUERY:1__\r\n", "Set-Cookie: k=__QUERY:1__; Path=/\r\n" }),
    echoed("a parameter that we added leaves", "add.test", "/x?a=1", "Location: /y?a=1&api%5Bkey%5D=canary-added&b=2", "Location: /y?a=1&b=2\r\n"),
    echoed("a parameter that we added leaves, the last one too", "add.test", "/x", "Location: /y?api%5Bkey%5D=canary-added#f", "Location: /y#f\r\n"),
    echoed("a parameter that we replaced gets the client's value", "add.test", "/x?api%5Bkey%5D=my%20own", "Location: /y?api%5Bkey%5D=canary-added&c=canary-added",
      "Location: /y?api%5Bkey%5D=my%20own&c=my%20own\r\n"),
    echoed("other headers are the upstream's own", "head.test", "/", "X-Note: hello\r\nLocation: /a", "X-Note: hello\r\nLocation: /a"),
    echoed("one of less than 8 bytes is looked for nowhere, in fields that repeat addresses neither", "short.test", "/?k=__SHORT__", "Location: /?k=canary",
      "Location: /?k=canary\r\n", "__SHORT__"),
    reflects("and no other: it is any word", "short.test", "/?k=__SHORT__", "", ok "X-Bird: a canary", "X-Bird: a canary\r\n", { raw_not = "__SHORT__" }),
    reflects("any field, of a row", "head.test", "/", "X-Key: __HEAD__\r\n", ok "X-Seen: [canary-head]\r\nAccess-Control-Allow-Origin: canary-head",
      { "X-Seen: [__HEAD__]\r\n", "Access-Control-Allow-Origin: __HEAD__\r\n" }),
    reflects("whether this request had it or not", "head.test", "/", "", ok "X-Seen: canary-head", "X-Seen: __HEAD__\r\n"),
    reflects("of a type, with what the agent holds", "held.test", "/", "", ok "X-Seen: canary/held+key\r\nX-Percent: %63anary%2Fheld%2bkey;canary%252fheld%252Bkey",
      { "X-Seen: held_", "X-Percent: held_", ";held_" }),
    reflects("of a type, with a mark where the agent holds nothing", "mark.test", "/", "", ok "X-Seen: canary-mark", "X-Seen: __SALLYPORT_SECRET__\r\n"),
    reflects("in the Base64 that Basic is", "basic.test", "/", "", ok "X-Seen: Basic bWU6Y2FuYXJ5fmJhc2ljP3dvcmQ=\r\nX-More: bWUuY2FuYXJ5fmJhc2ljP3dvcmQ=",
      { "X-Seen: Basic basic_", "X-More: bWUubasic_" }, { raw_not = { "canary", "Y2FuYXJ5", "jYW5hcnl", "uYXJ5fm" } }),
    reflects("in Base64 at any place, and in the other alphabet", "basic.test", "/", "", ok "X-A: Y2FuYXJ5fmJhc2ljP3dvcmQ\r\nX-B: eHhjYW5hcnl-YmFzaWM_d29yZA==\r\nX-C: eDpjYW5hcnl%2BYmFzaWM%2fd29yZHg=",
      { "X-A: basic_", "X-B: eHbasic_", "X-C: eDbasic_" }, { raw_not = { "canary", "Y2FuYXJ5", "jYW5hcnl" } }),
    reflects("in the reason", "bear.test", "/", "", "HTTP/1.1 403 canary-bearer is no good\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 403 __BEAR__ is no good\r\n"),
    reflects("in a field's name", "bear.test", "/", "", ok "canary-bearer: 1\r\nX-B: 2", "X-B: 2\r\n"),
    reflects("in a 1xx", "bear.test", "/", "", "HTTP/1.1 103 Early Hints\r\nLink: </canary-bearer>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "Link: </__BEAR__>\r\n"),
    reflects("in a trailer, which goes", "bear.test", "/", "", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T, X-U\r\n\r\n0\r\nX-T: canary%2dbearer\r\nX-U: fine\r\n\r\n",
      "X-U: fine\r\n"),
    -- told
    { name = "the agent is told where a placeholder may stand", via = "proxy", send = "GET /discover HTTP/1.1\r\nHost: 127.0.0.1:${PORT}\r\nAuthorization: Bearer ${TOKEN}\r\n\r\n",
      expect = { status = 200, body_has = { '"substitute":[{', '"placeholder":"__HEAD__"', '["query=k","query=api%5Bkey%5D"]' } } },
    -- astray
    { name = "a placeholder of another credential, in a query", host = "head.test", send = "GET /?x=${ENV:TWO_TOKEN} HTTP/1.1\r\nHost: head.test\r\n\r\n",
      expect = { status = 403, error = "host_not_allowed", body_has = { "credential two (TWO_TOKEN)", "two.test" }, upstream = "nothing", log = { decision = "deny", credential = "head" } } },
    { name = "in a path, percent-encoded", host = "bear.test", send = "GET /a/%74wo_x/${ENV:TWIN_TOKEN}%2f HTTP/1.1\r\nHost: bear.test\r\n\r\n",
      expect = { status = 403, error = "host_not_allowed", body_has = "TWIN_TOKEN", upstream = "nothing" } },
    { name = "in a header", host = "bear.test", send = "GET / HTTP/1.1\r\nHost: bear.test\r\nX-Any: a${ENV:TWIN_TOKEN}b\r\n\r\n",
      expect = { status = 403, error = "host_not_allowed", upstream = "nothing" } },
    { name = "beside its own", host = "head.test", send = "GET / HTTP/1.1\r\nHost: head.test\r\nX-Key: __HEAD__ ${ENV:TWIN_TOKEN}\r\n\r\n",
      expect = { status = 403, error = "host_not_allowed", upstream = "nothing" } },
    { name = "in a path, behind which sixteen others stand in fields", host = "many.test", send = "GET /${ENV:TWO_TOKEN} HTTP/1.1\r\nHost: many.test\r\n" .. full .. "\r\n",
      expect = { status = 403, error = "host_not_allowed", body_has = "TWO_TOKEN", upstream = "nothing" } },
    get("sixteen at their own host", "many.test", "/", full, { head_not = "canary" }),
    get("in an Authorization that goes anyway", "bear.test", "/", "Authorization: Bearer ${ENV:TWO_TOKEN}\r\n", { header = { authorization = "Bearer canary-bearer" } }),
    get("its own host may see it", "two.test", "/?t=${ENV:TWO_TOKEN}&u=${ENV:TWIN_TOKEN}", "", { head_has = "t=canary-two&u=twin_" }),
    get("where no credential goes, nothing is looked for", "free.test", "/?t=${ENV:TWO_TOKEN}", "", { head_has = "/?t=two_" }),
  },
}
