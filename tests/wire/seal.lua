--- Sealed texts: further secrets that an API hands out. The agent gets a text that opens here alone, for it, and where it may.
local policy = [[
return {
  kind = "type", api = 1, name = "session", title = "x",
  fields = { { name = "token", secret = true, required = true } },
  carriers = { headers = { "x-upload" } },
  mint = {
    { method = "POST", path = "/keys", what = "a key" },
    { method = "POST", path = "/narrow", what = "a key" },
    { method = "POST", path = "/unknown", what = "a key" },
  },
  seal = {
    { method = "POST", path = "/session", members = { "token" }, ttl = "expires_in", what = "a session" },
    { method = "POST", path = "/keys", members = { "key" } },
    { method = "POST", path = "/narrow", members = { "key" }, default = true },
    { method = "POST", path = "/far", members = { "token" }, hosts = { "far.test" } },
    { method = "POST", path = "/places", members = { "token" },
      opens = { "header=X-Upload", "query=tok", "form=refresh_token", "json=/auth/token", "header=cookie" } },
    { method = "POST", path = "/many", members = { "keys/*/value", "header=X-Session", "cookie=sid" }, optional = { "more", "form=absent" },
      opens = { "authorization", "header=cookie" } },
    { method = "POST", path = "/either", members = { { "token", "access_token" } } },
    { method = "POST", path = "/form", members = { "form=access_token" } },
    { method = "POST", path = "/prefix", members = { "token" }, prefix = "ghs_" },
    { method = "POST", path = "/jwt", members = { "token" }, shape = "jwt" },
    { method = "POST", path = "/login", members = { "access_token" } },
    { method = "POST", path = "/login/all", members = { "access_token", "id_token" }, shape = "jwt" },
    { method = "POST", path = "/short", members = { "token" }, ttl = 60 },
    { method = "GET", path = "/ws", members = { "token" } },
  },
  apply = function(req, cred) req.headers:set("authorization", "Bearer " .. cred.token) end,
}
]]
local header = [[
return {
  kind = "type", api = 1, name = "header", title = "x",
  fields = { { name = "key", secret = true, required = true } },
  strip = { headers = { "x-key" } },
  seal = { { method = "POST", path = "/session", members = { "token" } } },
  apply = function(req, cred) req.headers:set("x-key", cred.key) end,
}
]]
local member = [[
return {
  kind = "type", api = 1, name = "member", title = "x",
  fields = { { name = "key", secret = true, required = true } },
  body = function(req) return req.has_body and { max = 65536 } or nil end,
  seal = { { method = "POST", path = "/session", members = { "token" }, opens = { "form=key", "json=/key" } } },
  apply = function(req, cred)
    if not req.has_body then return true end
    local splice = form.of(req.headers).kind == "json" and req.splice_json or req.splice_form
    return splice(req, "key", cred.key)
  end,
}
]]
local CREDENTIAL = "canary-seal-credential-1"

local function answer(body, fields, status)
  return ("HTTP/1.1 %s\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s"):format(status or "200 OK", fields or "", #body, body)
end

local function post(path, fields, body)
  return ("POST %s HTTP/1.1\r\nHost: api.test\r\n%sContent-Length: %d\r\n\r\n%s"):format(path, fields or "", #(body or ""), body or "")
end

local function get(path, fields, host)
  return ("GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n"):format(path, host or "api.test", fields or "")
end

local SEALED = "[A-Za-z0-9_.-]*Sp5eaL[A-Za-z0-9_-]+"

-- A call whose answer is sealed; what took the secret's place is kept as `keep`.
local function make(name, path, body, keep, more)
  more = more or {}
  return { name = name, token = more.token, host = more.host, canaries = more.canaries,
    send = { more.ask or post(path, more.fields, more.body), { answers = 1 }, keep and { keep = keep, from = more.from or '"(' .. SEALED .. ')"' } or nil },
    upstream = { reply = { more.reply or answer(body, more.answer) } },
    expect = { status = 200, raw_not = { "canary-" }, raw_has = more.has,
      upstream = { header = { authorization = "Bearer " .. (more.authorization or CREDENTIAL), ["accept-encoding"] = "identity" } },
      log = { decision = "allow", sealed = more.sealed or 1, status = 200 }, log_never = { "canary-" } } }
end

-- A request that bears it.
local function use(name, request, want, more)
  more = more or {}
  return { name = name, token = more.token, host = more.host, send = { request, { answers = 1 } }, clock = more.clock,
    upstream = { reply = { answer('{"ok":true}') } },
    expect = { status = 200, raw_not = { "canary-" }, upstream = not more.servers and want or nil, servers = more.servers and { far = want } or nil,
      log = { decision = "allow", credential = more.credential or "api", reason = "sealed", unsealed = true }, log_never = { "canary-" } } }
end

local function refused(name, request, code, more)
  more = more or {}
  return { name = name, token = more.token, host = more.host, port = more.port, via = more.via, clock = more.clock,
    send = type(request) == "string" and { request, { answers = 1 } } or request,
    expect = { status = more.status or 403, error = code, body_has = more.says, upstream = "nothing", log = { decision = "deny", reason = code } } }
end

-- An identity token, which its client verifies: three parts, of which a keeper of the key made the last.
local CLAIMS, SIGNED = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.", ("c2lnbmF0dXJl"):rep(4)
local function bearer(name) return "Authorization: Bearer ${KEPT:" .. name .. "}\r\n" end

local cases = {
  -- ---- what is sealed --------------------------------------------------------------------------
  make("a row's member is sealed, and the rest of the answer stands", "/session", '{"a":1,"token":"canary-session-1","expires_in":600,"b":[2]}', "t",
    { has = { '{"a":1,"token":"', '","expires_in":600,"b":[2]}' } }),
  use("it opens in Authorization, for the agent, at the credential's host", get("/v1/me", bearer "t"),
    { requests = 1, header = { authorization = "Bearer canary-session-1" } }),
  use("with any scheme", get("/v1/me", "Authorization: token ${KEPT:t}\r\n"), { header = { authorization = "token canary-session-1" } }),
  use("in either half of Basic", get("/", "Authorization: Basic ${BASIC:x:[[KEPT:t]]}\r\n"), { header = { authorization = "Basic eDpjYW5hcnktc2Vzc2lvbi0x" } }),
  use("the user's half of Basic", get("/", "Authorization: Basic ${BASIC:[[KEPT:t]]:}\r\n"), { header = { authorization = "Basic Y2FuYXJ5LXNlc3Npb24tMTo=" } }),
  make("each occurrence goes, in the head, doubled and escaped", "/session",
    '{"token":"canary-session-2","x":"canary-session-2","\\u0074oken":"canary-session-2","y":"canary\\u002dsession-2"}', nil,
    { answer = "X-Echo: canary-session-2\r\n", sealed = 2 }),
  make("all members of a row: elements of a list, a header field, a cookie, an optional one", "/many",
    '{"keys":[{"value":"canary-many-1"},{"value":"canary-many-2"}],"more":"canary-many-5"}', "sid",
    { answer = "X-Session: canary-many-3\r\nSet-Cookie: sid=canary-many-4; Path=/; HttpOnly\r\n", sealed = 5, from = "sid=(" .. SEALED .. ")",
      has = { "; Path=/; HttpOnly" } }),
  use("a sealed cookie opens in Cookie, beside others, where its row says so", get("/", "Cookie: a=b; sid=${KEPT:sid}; c=d\r\n"),
    { header = { cookie = "a=b; sid=canary-many-4; c=d", authorization = "Bearer " .. CREDENTIAL } }),
  use("in quotes, too", get("/", 'Cookie: sid="${KEPT:sid}"\r\n'), { header = { cookie = 'sid="canary-many-4"' } }),
  refused("not beside another of its name: servers take either", get("/", "Cookie: sid=${KEPT:sid}; a=b; sid=mine\r\n"), "sealed_elsewhere", { says = "stands alone" }),
  refused("not in another field either", get("/", "Cookie: sid=mine\r\nCookie: sid=${KEPT:sid}\r\n"), "sealed_elsewhere"),
  refused("nor within a cookie", get("/", "Cookie: to=https://x.test/${KEPT:sid}\r\n"), "sealed_elsewhere"),
  make("one of two names will do", "/either", '{"access_token":"canary-either-1"}', nil),
  make("or the other, or both", "/either", '{"access_token":"canary-either-1","token":"canary-either-2"}', nil, { sealed = 2 }),
  make("a member of a form", "/form", "", "form", { reply = "HTTP/1.1 200 OK\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 35\r\n\r\n"
    .. "access_token=canary%2Dform-1&scope=", from = "access_token=(" .. SEALED .. ")" }),
  use("opens as it was", get("/", bearer "form"), { header = { authorization = "Bearer canary-form-1" } }),
  make("a prefix stands before it", "/prefix", '{"token":"ghs_canary-prefix-1"}', "prefix", { has = { '"ghs_Sp5eaL' } }),
  use("and opens with it", get("/", bearer "prefix"), { header = { authorization = "Bearer ghs_canary-prefix-1" } }),
  make("what is no JWT of its own is opaque", "/jwt", '{"token":"canary-jwt-1"}', nil, { has = { '"Sp5eaL' } }),
  make("an identity token beside it, which clients verify, stays as it is", "/login", ('{"access_token":"canary-login-1","id_token":"%s%s"}'):format(CLAIMS, SIGNED), nil,
    { has = { ('","id_token":"%s%s"}'):format(CLAIMS, SIGNED), '"access_token":"Sp5eaL' } }),
  make("unless its row names it: then its claims can be read", "/login/all", ('{"access_token":"canary-login-2","id_token":"%s%s"}'):format(CLAIMS, SIGNED), "id",
    { has = { '"id_token":"' .. CLAIMS .. "Sp5eaL" }, sealed = 2, from = '"id_token":"(' .. SEALED .. ')"' }),
  use("it opens whole", get("/", bearer "id"), { header = { authorization = "Bearer " .. CLAIMS .. SIGNED } }),
  { name = "a 2xx that lacks its member is thrown away", send = { post "/session", { answers = 1 } },
    upstream = { reply = { answer '{"Token2":"canary-lost-1"}' } },
    expect = { status = 502, error = "seal_failed", raw_not = { "canary-" }, log = { error = "seal_failed" }, log_never = { "canary-" } } },
  { name = "so is a value that is no string", send = { post "/session", { answers = 1 } },
    upstream = { reply = { answer '{"token":["canary-lost-2"]}' } }, expect = { status = 502, error = "seal_failed", raw_not = { "canary-" } } },
  { name = "and what is still encoded", send = { post "/session", { answers = 1 } },
    upstream = { reply = { answer('{"token":"canary-lost-3"}', "Content-Encoding: br\r\n") } }, expect = { status = 502, error = "seal_failed", raw_not = { "canary-" } } },
  { name = "and what is longer than 1 MiB", send = { post "/session", { answers = 1 } },
    upstream = { reply = { answer('{"token":"canary-lost-4","x":"' .. ("y"):rep(1 << 20) .. '"}') } },
    expect = { status = 502, error = "seal_failed", raw_not = { "canary-" } } },
  { name = "an error passes, with what is found in it sealed", send = { post "/session", { answers = 1 } },
    upstream = { reply = { answer('{"token":"canary-error-1","error":"x"}', nil, "400 Bad Request") } },
    expect = { status = 400, raw_not = { "canary-" }, body_has = { "Sp5eaL", '"error":"x"' } } },
  { name = "and one without it as it is", send = { post "/session", { answers = 1 } },
    upstream = { reply = { answer('{"error":"x"}', nil, "401 Unauthorized") } }, expect = { status = 401, body = '{"error":"x"}' } },
  make("a range and codings are not asked for", "/session", '{"token":"canary-session-3"}', nil, { fields = "Range: bytes=0-9\r\nIf-Range: x\r\nAccept-Encoding: gzip, br\r\n" }),

  -- ---- what is refused -------------------------------------------------------------------------
  refused("a call that rows of mint have stays refused, and the hint says how it is sealed", post "/keys", "mint_denied", { says = { "mint=seal", "mint=allow" } }),
  refused("so does one of which no row knows the answer", post "/unknown", "mint_denied"),
  make("a default row counts against them", "/narrow", '{"key":"canary-narrow-1"}', nil),
  refused("another agent's", get("/", bearer "t"), "sealed_elsewhere", { token = "b", says = "another agent" }),
  refused("another host, that the agent may reach with another credential", get("/", bearer "t", "other.test"), "sealed_elsewhere", { host = "other.test" }),
  refused("another host, open without a credential", get("/", bearer "t", "open.test"), "sealed_elsewhere", { host = "open.test" }),
  refused("a host that the agent may not reach", get("/", bearer "t", "nowhere.test"), "sealed_elsewhere", { host = "nowhere.test" }),
  refused("another port", get("/", bearer "t", "api.test:8443"), "sealed_elsewhere", { port = 8443 }),
  refused("without TLS", "GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\n${AUTH}" .. bearer "t" .. "\r\n", "sealed_elsewhere", { via = "proxy", says = "TLS" }),
  refused("after its end", get("/", bearer "t"), "sealed_expired", { clock = 700, says = "ask the API" }),
  { name = "while the clock is not set", send = { get("/", bearer "t"), { answers = 1 } }, clock = -2000000000,
    expect = { status = 503, error = "clock_unset", body_has = "sealed text", upstream = "nothing" } },
  refused("cut", get("/", "Authorization: Bearer ${KEPT:t:cut:4}\r\n"), "sealed_elsewhere"),
  refused("flipped in its last byte", get("/", "Authorization: Bearer ${KEPT:t:flip:5}\r\n"), "sealed_elsewhere"),
  refused("flipped in its ids", get("/", "Authorization: Bearer ${KEPT:t:flip:100}\r\n"), "sealed_elsewhere"),
  refused("with more behind it", get("/", "Authorization: Bearer ${KEPT:t}AAAA\r\n"), "sealed_elsewhere"),
  refused("with another prefix", get("/", "Authorization: Bearer ghp_${KEPT:prefix:tail:4}\r\n"), "sealed_elsewhere"),
  refused("beside another key", get("/", "Authorization: Bearer mine, ${KEPT:t}\r\n"), "sealed_elsewhere", { says = "stands alone" }),
  refused("beside another key in Basic", get("/", "Authorization: Basic ${BASIC:x:mine [[KEPT:t]]}\r\n"), "sealed_elsewhere"),
  use("as a scheme's parameter", get("/", "Authorization: Token token=\"${KEPT:t}\"\r\n"), { header = { authorization = "Token token=\"canary-session-1\"" } }),
  use("with no scheme", get("/", "Authorization: ${KEPT:t}\r\n"), { header = { authorization = "canary-session-1" } }),
  refused("beside a second Authorization", get("/", bearer "t" .. "Authorization: Bearer mine\r\n"), "sealed_elsewhere"),
  refused("behind what is no scheme", get("/", "Authorization: https://x.test/?a= ${KEPT:t}\r\n"), "sealed_elsewhere"),
  refused("five in one request", get("/", "Authorization: Bearer ${KEPT:t} ${KEPT:t} ${KEPT:t} ${KEPT:t} ${KEPT:t}\r\n"), "sealed_elsewhere"),
  { name = "in a place that its row does not name it is worthless text, and the credential is attached",
    send = { post("/note?tok=${KEPT:t}", "X-Note: ${KEPT:t}\r\nAuthorization: Bearer x\r\nContent-Type: text/plain\r\n", "note"), { answers = 1 } },
    upstream = { reply = { answer "{}" } },
    expect = { status = 200, upstream = { header = { authorization = "Bearer " .. CREDENTIAL }, head_has = { "Sp5eaL" }, head_not = { "canary-session" } },
      log = { credential = "api", reason = "credential" } } },

  { name = "in the method's place it is no request, and no record has it", send = "${KEPT:t} / HTTP/1.1\r\nHost: api.test\r\n\r\n",
    expect = { status = 400, error = "bad_request", upstream = "nothing", log_never = { "Sp5eaL" } } },
  make("hosts that an answer names are none where it opens", "/session",
    '{"token":"canary-named-1","casUrl":"https://far.test","hosts":["far.test"],"opens":["far.test"],"expires_in":600}', "named",
    { answer = "Location: https://far.test/\r\nLink: <https://far.test/>; rel=\"xet-auth\"\r\nX-Xet-Cas-Url: https://far.test\r\nWWW-Authenticate: Bearer realm=\"https://far.test/\"\r\n" }),
  refused("nor is it sent there", get("/", bearer "named", "far.test"), "sealed_elsewhere", { host = "far.test", says = "does not go to" }),
  -- ---- further hosts, places -------------------------------------------------------------------
  make("a row with further hosts", "/far", '{"token":"canary-far-1"}', "far"),
  use("opens there, and nothing else is attached", get("/", bearer "far" .. "X-Api-Key: mine\r\n", "far.test"),
    { header = { authorization = "Bearer canary-far-1" }, head_not = { CREDENTIAL } }, { host = "far.test", servers = true }),
  use("and at the credential's own", get("/", bearer "far"), { header = { authorization = "Bearer canary-far-1" } }),
  refused("another row's does not open there", get("/", bearer "t", "far.test"), "sealed_elsewhere", { host = "far.test" }),
  make("a row with places", "/places", '{"token":"canary-places-1&=\\"/ü"}', "p"),
  use("a header", get("/", "X-Upload: ${KEPT:p}\r\n"), { header = { ["x-upload"] = 'canary-places-1&="/\xc3\xbc', authorization = "Bearer " .. CREDENTIAL } }),
  use("the query", get "/?a=1&tok=${KEPT:p}&b=2", { line = "GET /?a=1&tok=canary-places-1%26%3D%22%2F%C3%BC&b=2 HTTP/1.1", header = { authorization = "Bearer " .. CREDENTIAL } }),
  use("a header with a scheme of its own", get("/", "X-Upload: Upload ${KEPT:p}\r\n"), { header = { ["x-upload"] = 'Upload canary-places-1&="/\xc3\xbc' } }),
  refused("a header that says more", get("/", "X-Upload: to=x.test, ${KEPT:p}\r\n"), "sealed_elsewhere", { says = "header x-upload" }),
  refused("a header twice", get("/", "X-Upload: mine\r\nX-Upload: ${KEPT:p}\r\n"), "sealed_elsewhere"),
  refused("a query that says it twice", get "/?tok=${KEPT:p}&tok=mine", "sealed_elsewhere", { says = "query tok" }),
  refused("a query's value that says more", get "/?tok=https://x.test/${KEPT:p}", "sealed_elsewhere"),
  { name = "in Authorization it is not looked for", send = { get("/", bearer "p"), { answers = 1 } },
    upstream = { reply = { answer "{}" } }, expect = { status = 200, upstream = { header = { authorization = "Bearer " .. CREDENTIAL } } } },
}
for _, body in ipairs {
  { "a form", "application/x-www-form-urlencoded", "grant_type=refresh_token&refresh_token=${KEPT:p}", "grant_type=refresh_token&refresh_token=canary-places-1%26%3D%22%2F%C3%BC" },
  { "a member of a JSON body", "application/json", '{"auth":{"token":"${KEPT:p}"},"z":[1]}', '{"auth":{"token":"canary-places-1&=\\"/\xc3\xbc"},"z":[1]}' },
} do
  cases[#cases + 1] = { name = body[1], send = { ("POST / HTTP/1.1\r\nHost: api.test\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n"):format(body[2]),
    { chunked = body[3] }, { answers = 1 } },
    upstream = { reply = { answer '{"ok":true}' } },
    expect = { status = 200, upstream = { body = body[4], header = { authorization = "Bearer " .. CREDENTIAL } }, log = { reason = "sealed" } } }
end
for _, body in ipairs {
  { "a form that says it twice", "application/x-www-form-urlencoded", "refresh_token=mine&refresh_token=${KEPT:p}" },
  { "a form that says more", "application/x-www-form-urlencoded", "refresh_token=x.test/${KEPT:p}" },
  { "a member that says more", "application/json", '{"auth":{"token":"x ${KEPT:p}"}}' },
} do
  cases[#cases + 1] = refused(body[1], { ("POST / HTTP/1.1\r\nHost: api.test\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n"):format(body[2]),
    { chunked = body[3] }, { answers = 1 } }, "sealed_elsewhere")
end
cases[#cases + 1] = { name = "nor does it open in a form whose charset may have other names in the same bytes",
  send = { "POST / HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/x-www-form-urlencoded; charset=utf-7\r\nTransfer-Encoding: chunked\r\n\r\n",
    { chunked = "refresh_token=${KEPT:p}" }, { answers = 1 } },
  upstream = { reply = { answer "{}" } }, expect = { status = 200, log = { credential = "api", reason = "credential" }, log_never = { "unsealed" } } }
cases[#cases + 1] = { name = "an object that has a member twice is no JSON of which a place is known: the text is worthless there",
  send = { "POST / HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
    { chunked = '{"auth":{"token":"${KEPT:p}","token":"mine"}}' }, { answers = 1 } },
  upstream = { reply = { answer "{}" } }, expect = { status = 200, log = { credential = "api", reason = "credential" }, log_never = { "unsealed" } } }

-- ---- mint=, types with a header of their own, attach ---------------------------------------------
local function at(host, request) return (request:gsub("api%.test", host)) end
local function append(list) table.move(list, 1, #list, #cases + 1, cases) end
append {
  make("mint=seal: what rows of mint have, too, is sealed", nil, '{"key":"canary-key-1"}', "key",
    { host = "seal.test", authorization = "canary-seal-credential-3", ask = at("seal.test", post "/keys") }),
  refused("and what no row of seal has stays refused", at("seal.test", post "/unknown"), "mint_denied", { host = "seal.test" }),
  refused("so does a path that servers may read as another one", at("seal.test", post "/x/..%2fkeys"), "mint_denied", { host = "seal.test" }),
  use("it opens at its host", get("/", bearer "key", "seal.test"), { header = { authorization = "Bearer canary-key-1" } }, { host = "seal.test", credential = "seal" }),
  use("and at the operator's --seal-host, alone", get("/", bearer "key", "far.test"),
    { header = { authorization = "Bearer canary-key-1" }, head_not = "canary-seal-credential" }, { host = "far.test", credential = "seal", servers = true }),
  refused("texts of two credentials in one request", get("/", "Authorization: Basic ${BASIC:[[KEPT:key]]:[[KEPT:far]]}\r\n"), "sealed_elsewhere",
    { says = "more than one credential" }),
  refused("mint=refuse: no row counts", at("refuse.test", post "/session"), "mint_denied", { host = "refuse.test" }),
  { name = "mint=allow: it is handed out", host = "allow.test", send = { at("allow.test", post "/session"), { answers = 1 } },
    upstream = { reply = { answer '{"token":"handed-out-1"}' } }, expect = { status = 200, body = '{"token":"handed-out-1"}' } },
  { name = "a type with a header of its own is sealed for", host = "key.test", send = { at("key.test", post "/session"), { answers = 1 }, { keep = "k", from = '"(' .. SEALED .. ')"' } },
    upstream = { reply = { answer '{"token":"canary-header-1"}' } }, expect = { status = 200, raw_not = { "canary-" }, upstream = { header = { ["x-key"] = "canary-seal-credential-5" } } } },
  use("its header is attached beside the opened text at its host, and with attach=placeholder that is no key of the agent's own",
    get("/", bearer "k", "key.test"), { header = { authorization = "Bearer canary-header-1", ["x-key"] = "canary-seal-credential-5" } },
    { host = "key.test", credential = "key" }),
  use("and not at a further one", get("/", bearer "k", "far.test"), { header = { authorization = "Bearer canary-header-1" }, no_header = "x-key" },
    { host = "far.test", credential = "key", servers = true }),
  refused("another key beside it is one", get("/", bearer "k" .. "X-Api-Key: mine\r\n", "key.test"), "foreign_credential", { host = "key.test" }),
}

append { { name = "a type that writes into the body", host = "body.test", send = { at("body.test", post "/session"), { answers = 1 }, { keep = "m", from = '"(' .. SEALED .. ')"' } },
  upstream = { reply = { answer '{"token":"canary-member-1"}' } }, expect = { status = 200, raw_not = { "canary-" } } } }
for kind, body in pairs { ["application/x-www-form-urlencoded"] = { "a=b&key=%s", "form" }, ["application/json"] = { '{"a":1,"key":"%s"}', "JSON" } } do
  for name, key in pairs { ["does not where a sealed text stands"] = { "${KEPT:m}", "canary-member-1" }, ["does where another does"] = { "mine", "canary-seal-credential-7" } } do
    append { { name = ("%s: %s"):format(body[2], name), host = "body.test",
      send = { ("POST / HTTP/1.1\r\nHost: body.test\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n"):format(kind), { chunked = body[1]:format(key[1]) }, { answers = 1 } },
      upstream = { reply = { answer "{}" } }, expect = { status = 200, upstream = { body = body[1]:format(key[2]) } } } }
  end
end

append {
  { name = "a body of known length that is too long to be looked into streams, worthless text and all", set = { ["body-max"] = "64k" },
    send = { "POST / HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/json\r\nContent-Length: 70014\r\n\r\n" .. '{"x":"' .. ("y"):rep(70000) .. '","z":1}', { answers = 1 } },
    upstream = { reply = { answer '{"ok":true}' } }, expect = { status = 200, upstream = { body_size = 70014 } } },
  { name = "one without a length is refused", set = { ["body-max"] = "64k" },
    send = { "POST / HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", { chunked = '{"x":"' .. ("y"):rep(70000) .. '"}' }, { answers = 1 } },
    expect = { status = 413, error = "body_too_large", body_has = { "sealed", "body-max" }, upstream = "nothing" } },
}

-- ---- streams --------------------------------------------------------------------------------------
local function upgrade(host, path, fields)
  return ("GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    .. "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n"):format(path, host, fields)
end
local SWITCH = { { steps = { "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
  .. "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", { relay = true } } } }
local PONG = "\x8a\x80\0\0\0\0"
append {
  refused("an upgrade to what would be sealed", upgrade("api.test", "/ws", ""), "mint_denied"),
  { name = "a stream for which a text was opened goes on while that is covered", host = "far.test",
    send = { { server = "far", reply = SWITCH }, upgrade("far.test", "/", bearer "far"), { ["until"] = "101" }, { cli = { "bundle", "add", "more" } }, 2.5, PONG, { ["until"] = PONG } },
    expect = { raw_has = { "101", PONG } } },
  { name = "and ends when what was sealed for the credential is revoked", host = "far.test",
    send = { { server = "far", reply = SWITCH }, upgrade("far.test", "/", bearer "key"), { ["until"] = "101" }, { cli = { "seal", "revoke", "--credential", "seal" } } },
    expect = { raw_has = "101", closed = true, log = { credential = "seal", unsealed = true, status = 101 } } },
  { name = "or for the agent", host = "far.test",
    send = { { server = "far", reply = SWITCH }, upgrade("far.test", "/", bearer "k"), { ["until"] = "101" }, { cli = { "seal", "revoke", "--agent", "a" } } },
    expect = { raw_has = "101", closed = true, log = { credential = "key", unsealed = true, status = 101 } } },
  make("another text, for another credential", "/far", '{"token":"canary-far-2"}', "far2"),
  { name = "and ends where it is not covered any more", host = "far.test",
    send = { { server = "far", reply = SWITCH }, upgrade("far.test", "/", bearer "far2"), { ["until"] = "101" }, { cli = { "credential", "disable", "api" } } },
    expect = { raw_has = "101", closed = true, log = { credential = "api", unsealed = true, status = 101 } } },
}

return {
  shared = {
    policies = { { name = "session", source = policy }, { name = "header", source = header }, { name = "member", source = member } },
    hosts = { "api.test", "other.test", "open.test", "seal.test", "refuse.test", "allow.test", "key.test", "body.test" },
    credentials = {
      { name = "api", type = "session", host = "api.test", secrets = { token = CREDENTIAL } },
      { name = "other", type = "bearer", host = "other.test", secrets = { token = "canary-seal-credential-2" } },
      { name = "seal", type = "session", host = "seal.test", fields = { mint = "seal" }, ["seal-host"] = "far.test", secrets = { token = "canary-seal-credential-3" } },
      { name = "refuse", type = "session", host = "refuse.test", fields = { mint = "refuse" }, secrets = { token = "canary-seal-credential-4" } },
      { name = "allow", type = "session", host = "allow.test", fields = { mint = "allow" }, secrets = { token = "canary-seal-credential-6" } },
      { name = "key", type = "header", host = "key.test", env = "KEY", fields = { attach = "placeholder" }, ["seal-host"] = "far.test",
        secrets = { key = "canary-seal-credential-5" } },
      { name = "body", type = "member", host = "body.test", secrets = { key = "canary-seal-credential-7" } },
    },
    domains = { { host = "open.test" } },
    agents = { { name = "a" }, { name = "b" } },
    servers = { far = { host = "far.test", reply = answer '{"ok":true}' } },
  },
  cases = cases,
}
