-- lua/oauth.lua: RFC 6749 token requests and their answers, and a net that goes nowhere else. Strings stand for
-- secrets where only the shape of a body matters: the builders take both alike.
local oauth, form, json, secret = require "oauth", require "form", require "json", require "secret"

local function is(got, want)
  if got ~= want then error(("got %s, wanted %s"):format(tostring(got), tostring(want)), 2) end
end

local URL = "https://login.test/token"

-- A net whose client notes what it is asked and answers what the test says.
local function net_of(answer, more)
  local seen = {}
  local with = {
    client = { request = function(spec, deadline)
      seen[#seen + 1] = spec
      spec.deadline = deadline
      if type(answer) == "function" then return answer(spec) end
      return answer
    end },
    time = { now = function() return 5000 end, wall = function() return 1000 end },
    secret = secret, form = form, json = json, addresses = function(url) return url == URL and { "10.0.0.0/8" } or nil end,
    allows = function(url) if url == URL then return true end return nil, "not declared" end,
  }
  for k, v in pairs(more or {}) do with[k] = v end
  return oauth.net(with), seen
end

local function good(more)
  local values = { access_token = "t1", token_type = "Bearer", expires_in = 60 }
  for k, v in pairs(more or {}) do values[k] = v end
  return { status = 200, values = values }
end

local function header(spec, name)
  for _, h in ipairs(spec.headers) do
    if h[1] == name then return h[2] end
  end
end

-- What net.token makes of this answer.
local function judged(answer, spec)
  return net_of(answer).token(URL, spec or {}, 9000)
end

local cases = {
  ["an endpoint's words are shown where the policy's own text has them"] = function()
    local seen = { texts = { "bad_proof", "E17", "the key abcdef is known", "proof" } }
    local source = 'local REASONS = { bad_proof = true, ["E-9"] = true, E17 = true }'
    local function shown(text, own) return oauth.without_answers(text, seen, own) end
    is(shown("refused: bad_proof", source), "refused: bad_[answer]")      -- a shorter one stands in it
    seen = { texts = { "bad_proof", "E17", "the key abcdef is known" } }
    is(shown("refused: bad_proof", source), "refused: bad_proof")
    is(shown("refused: bad_proof", nil), "refused: [answer]")
    is(shown("refused: bad_proof", "local BAD = 'bad_proofs'"), "refused: [answer]")
    is(shown("refused: E17", source), "refused: E17")
    is(shown("refused: E17", "E171"), "refused: [answer]")
    is(shown("the key abcdef is known", "the key abcdef is known"), "[answer]")      -- no word
  end,
  ["tokens within a member: of no other, and at the top only where that is said"] = function()
    local answer = { status = 200, values = { access_token = "bot", refresh_token = "bot-r", ["u.v.access_token"] = "user", ["u.v.token_type"] = "user",
      ["u.v.expires_in"] = 60, ["u.v.scope"] = "a" } }
    local spec = { within = "u.v", token_types = { "user" } }
    local got = oauth.judge(answer, spec, 1000)
    is(got.secrets.access_token, "user")
    is(got.secrets.refresh_token, nil)
    is(got.expires_at, 1060)
    is(got.granted[1], "a")
    answer.values["u.v.access_token"] = nil
    is(select(2, oauth.judge(answer, spec, 1000)), "no_access_token")
    spec.or_top = true
    is(oauth.judge(answer, spec, 1000).secrets.refresh_token, "bot-r")
    answer.values.error = "invalid_grant"
    is(select(2, oauth.judge(answer, spec, 1000)), "invalid_grant")
  end,
  ["the scopes of a server's text: only what may be one, so many, so long"] = function()
    local function joined(text) return table.concat(oauth.scopes(text), "|") end
    is(oauth.scopes(nil), nil)
    is(oauth.scopes({}), nil)
    is(joined(""), "")
    is(joined(" a  b,c\n"), "a|b|c")
    is(joined('a "b" c\\d \1 \200'), "a")
    is(joined(("x"):rep(201)), "")
    is(#oauth.scopes(("x "):rep(1000)), 100)
  end,
  ["scopes that were asked for and not granted, whichever way they are written"] = function()
    local function missing(asked, granted) return table.concat(oauth.missing(asked, granted), " ") end
    is(missing({ "a", "b" }, { "b" }), "a")
    is(missing(nil, { "b" }), "")
    is(missing({ "email" }, { "https://www.googleapis.com/auth/userinfo.email" }), "")
    is(missing({ "https://graph.microsoft.com/Mail.Read" }, { "mail.read" }), "")
    is(missing({ "https://graph.microsoft.com/.default" }, { "User.Read" }), "")
    is(missing({ "read" }, { "mail.read" }), "read")
    is(missing({ "mail" }, { "https://x.test/auth/gmail" }), "mail")
  end,
  ["a token request is a POST of a form, and asks for members only"] = function()
    local net, seen = net_of(good())
    local t = net.token(URL, { form = { { "grant_type", "client_credentials" }, { "scope", { "a", "b c" } } } }, 9000)
    is(t.secrets.access_token, "t1")
    is(t.expires_at, 1060)
    is(seen[1].method, "POST")
    is(seen[1].url, URL)
    is(seen[1].body, "grant_type=client_credentials&scope=a+b+c")
    is(header(seen[1], "content-type"), "application/x-www-form-urlencoded")
    is(header(seen[1], "accept"), "application/json")
    is(header(seen[1], "authorization"), nil)
    is(seen[1].expect.access_token, "secret")
    is(seen[1].expect.error, "code")
    is(seen[1].max, 1048576)
    is(seen[1].addresses[1], "10.0.0.0/8")
  end,
  ["absent and empty parameters are left out"] = function()
    local net, seen = net_of(good())
    net.token(URL, { form = { { "a", nil }, { "b", {} }, { "c", "" }, { "d", "1" } } }, 9000)
    is(seen[1].body, "d=1")
  end,
  ["basic is form-encoded before Base64 (RFC 6749 2.3.1)"] = function()
    is(oauth.basic(secret, "id", "secret"), "Basic aWQ6c2VjcmV0")
    -- "a:b" and "c d&e" must not be read as other halves
    is(oauth.basic(secret, "a:b", "c d&e"), "Basic " .. secret.base64("a%3Ab:c+d%26e"))
    is(oauth.basic(secret, "id", nil), "Basic " .. secret.base64("id:"))
    local net, seen = net_of(good())
    net.token(URL, { basic = { "id", "secret" } }, 9000)
    is(header(seen[1], "authorization"), "Basic aWQ6c2VjcmV0")
  end,
  ["a body of JSON, where the type says so; repeated parameters are a list"] = function()
    local net, seen = net_of(good())
    net.token(URL, { body = "json", form = { { "grant_type", "x" }, { "resource", "u1" }, { "resource", "u2" } } }, 9000)
    is(header(seen[1], "content-type"), "application/json")
    local body = json.decode(seen[1].body)
    is(body.grant_type, "x")
    is(body.resource[1], "u1")
    is(body.resource[2], "u2")
  end,
  ["repeated parameters stay repeated in a form (RFC 8707)"] = function()
    local net, seen = net_of(good())
    net.token(URL, { form = { { "resource", "https://a" }, { "resource", "https://b" } } }, 9000)
    is(seen[1].body, "resource=https%3A%2F%2Fa&resource=https%3A%2F%2Fb")
  end,
  ["a secret in a body makes the body a secret"] = function()
    local core = require "secret.core"
    local net, seen = net_of(good())
    net.token(URL, { form = { { "client_secret", core.of("s") } } }, 9000)
    is(secret.is(seen[1].body), true)
    net.token(URL, { body = "json", form = { { "client_secret", core.of("s") } } }, 9000)
    is(secret.is(seen[2].body), true)
    net.token(URL, { basic = { "id", core.of("s") } }, 9000)
    is(secret.is(header(seen[3], "authorization")), true)
  end,
  ["a call ends after ten seconds, or when its caller must"] = function()
    local net, seen = net_of(good())
    net.token(URL, {}, 9000)
    net.token(URL, {}, 900000)
    net.token(URL, {}, nil)
    is(seen[1].deadline, 9000)
    is(seen[2].deadline, 15000)
    is(seen[3].deadline, 15000)
  end,

  -- ---- who asks
  ["the client says who it is: none, basic, post (RFC 6749 2.3.1)"] = function()
    local net, seen = net_of(good())
    local form = { { "grant_type", "x" } }
    net.token(URL, { client = { method = "none", id = "i" }, form = form }, 9000)
    net.token(URL, { client = { method = "basic", id = "i", secret = "s" }, form = form }, 9000)
    net.token(URL, { client = { method = "post", id = "i", secret = "s" }, form = form }, 9000)
    is(seen[1].body, "grant_type=x&client_id=i")
    is(header(seen[1], "authorization"), nil)
    is(seen[2].body, "grant_type=x")
    is(header(seen[2], "authorization"), oauth.basic(secret, "i", "s"))
    is(seen[3].body, "grant_type=x&client_id=i&client_secret=s")
    is(header(seen[3], "authorization"), nil)
    is(#form, 1)                -- the caller's own table stays as it was
  end,
  ["private_key_jwt signs a short assertion for this server, each with a number of its own (RFC 7523)"] = function()
    local asked = {}
    local net, seen = net_of(good(), {
      sign = { jwt = function(spec) asked[#asked + 1] = spec; return "signed-" .. #asked end },
      new_id = function() return "id-" .. #asked end,
    })
    local client = { method = "private_key_jwt", id = "i", key = "k", key_id = "k1", algorithm = "ES256" }
    net.token(URL, { client = client, form = { { "grant_type", "x" } } }, 9000)
    client.audience = "https://login.test"
    net.token(URL, { client = client, form = {} }, 9000)
    is(seen[1].body, "grant_type=x&client_id=i&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer"
      .. "&client_assertion=signed-1")
    is(asked[1].alg, "ES256")
    is(asked[1].header.kid, "k1")
    local c = asked[1].claims
    is(c.iss, "i")
    is(c.sub, "i")
    is(c.aud, URL)
    is(c.exp - c.iat, 120)
    is(asked[2].claims.aud, "https://login.test")
    assert(c.jti ~= asked[2].claims.jti)
  end,
  ["a key that cannot sign sends nothing"] = function()
    local net, seen = net_of(good(), { sign = { jwt = function() return nil, "encrypted" end }, new_id = function() return "" end })
    is(select(2, net.token(URL, { client = { method = "private_key_jwt", id = "i", key = "k" } }, 9000)), "bad_key")
    is(#seen, 0)
  end,
  ["a token that nobody can renew is used as long as the server says, or until it is refused"] = function()
    local year = 366 * 86400
    local function life(more, spec)
      spec.ttl = 3600
      local a = good(more)
      if more.expires_in == false then a.values.expires_in = nil end
      return judged(a, spec).expires_at - 1000
    end
    is(life({ expires_in = 60 * 86400 }, { lasting = true }), 60 * 86400)
    is(life({ expires_in = false }, { lasting = true }), 10 * year)
    is(life({ expires_in = 1e12 }, { lasting = true }), 10 * year)
    is(life({ expires_in = false, refresh_token = "r" }, { lasting = true }), 3600)
    is(life({ expires_in = 60 * 86400, refresh_token = "r" }, { lasting = true }), 30 * 86400)
    is(life({ expires_in = false }, { lasting = true, renewable = true }), 3600)
    is(life({ expires_in = 60 * 86400 }, {}), 30 * 86400)
  end,

  -- ---- answers
  ["an answer with a token is good, without token_type too"] = function()
    is(judged(good { token_type = false and "" or "bearer" }).secrets.access_token, "t1")
    local a = good()
    a.values.token_type = nil
    is(judged(a).secrets.access_token, "t1")
    a.values.token_type = "BEARER"
    is(judged(a).secrets.access_token, "t1")
    a.status = 201
    is(judged(a).secrets.access_token, "t1")
  end,
  ["another token_type is refused, unless the type declares it"] = function()
    local a = good { token_type = "mac" }
    is(select(2, judged(a)), "token_type")
    is(judged(a, { token_types = { "bearer", "MAC" } }).secrets.access_token, "t1")
  end,
  ["200 with error is an error"] = function()
    is(select(2, judged(good { error = "invalid_grant" })), "invalid_grant")
  end,
  ["200 without access_token is an error"] = function()
    is(select(2, judged { status = 200, values = { expires_in = 60 } }), "no_access_token")
    is(select(2, judged { status = 200, values = {} }), "no_access_token")
  end,
  ["an answer that is no JSON is an error"] = function()
    is(select(2, judged { status = 200, values = {}, malformed = true }), "malformed")
    is(select(2, judged { status = 200, malformed = true }), "malformed")
  end,
  ["a redirect is not followed, and an error"] = function()
    for _, status in ipairs { 301, 302, 303, 307, 308 } do
      is(select(2, judged { status = status, values = {} }), "redirect")
    end
  end,
  ["4xx without a code is a refusal, 5xx and 429 pass by themselves"] = function()
    is(select(2, judged { status = 400, values = {} }), "refused")
    is(select(2, judged { status = 403, malformed = true }), "refused")
    is(select(2, judged { status = 500, malformed = true }), "unavailable")
    is(select(2, judged { status = 503, values = {} }), "unavailable")
    local _, code, detail = judged { status = 429, values = {}, retry_after = 7 }
    is(code, "unavailable")
    is(detail.retry_after, 7)
  end,
  ["a registered code counts whatever the status"] = function()
    is(select(2, judged { status = 401, values = { error = "invalid_client" } }), "invalid_client")
    is(select(2, judged { status = 503, values = { error = "temporarily_unavailable" } }), "temporarily_unavailable")
  end,
  ["of the server's text only a registered code is repeated"] = function()
    is(oauth.code("invalid_grant"), "invalid_grant")
    is(oauth.code("sk_live_canary"), "unregistered_error")
    is(select(2, judged { status = 400, values = { error = "the secret canary-7f3a is wrong" } }), "unregistered_error")
  end,
  ["a policy that expects a code gets a registered one"] = function()
    for said, code in pairs {
      slow_down = "slow_down", bad_refresh_token = "invalid_grant", Invalid_grant = "unregistered_error",
      [""] = "unregistered_error", ["canary-7f3a"] = "unregistered_error",
    } do
      local net = net_of { status = 400, values = { e = said, other = said } }
      local values = net.request({ url = URL, expect = { e = "code", other = "string" } }, 9000).values
      is(values.e, code)
      is(values.other, said)
    end
  end,
  ["what the client says is passed on"] = function()
    for _, code in ipairs { "timeout", "unreachable", "tls", "address_blocked", "too_large", "clock_unset" } do
      local net = net_of(function() return nil, code, "detail" end)
      local t, got = net.token(URL, {}, 9000)
      is(t, nil)
      is(got, code)
    end
  end,
  ["expires_in in every shape that servers send"] = function()
    for _, c in ipairs {
      { 3600, 3600 }, { "3600", 3600 }, { 3600.7, 3600 }, { 1, 1 }, { 1e9, 30 * 86400 }, { math.huge, 30 * 86400 },
      { 0, 120 }, { -1, 120 }, { 0.5, 120 }, { 0 / 0, 120 }, { "", 120 }, { "soon", 120 }, { "-5", 120 }, { "0x10", 120 },
      { "1e3", 120 }, { true, 120 }, { {}, 120 }, { nil, 120 },
    } do
      local a = good()
      a.values.expires_in = c[1]
      is(judged(a, { ttl = 120 }).expires_at, 1000 + c[2])
      is(oauth.lifetime(c[1], 120), c[2])
    end
    is(oauth.lifetime(nil, nil), 300)
    is(oauth.lifetime(nil, "x"), 300)
  end,
  ["a lifetime is counted from before the request"] = function()
    local wall = 1000
    local net = net_of(function() wall = wall + 9; return good() end,
      { time = { now = function() return 0 end, wall = function() return wall end } })
    is(net.token(URL, {}, 9000).expires_at, 1060)
  end,

  -- ---- where it goes
  ["a URL that is not declared is not asked"] = function()
    local net, seen = net_of(good())
    is(select(2, net.token("https://evil.test/token", {}, 9000)), "url_not_declared")
    is(select(2, net.request({ url = "https://evil.test/" }, 9000)), "url_not_declared")
    is(#seen, 0)
  end,
  ["net.request posts unless told otherwise, within the same bounds"] = function()
    local net, seen = net_of({ status = 200, values = {} })
    net.request({ url = URL, expect = { token = "secret" } }, 9000)
    net.request({ url = URL, method = "GET" }, 9000)
    local ok, why = pcall(net.request, { url = URL, addresses = { "0.0.0.0/0" } }, 9000)
    assert(not ok and why:find("net.request has no key 'addresses'", 1, true), why)
    is(#seen, 2)
    is(seen[1].method, "POST")
    is(seen[2].method, "GET")
    is(seen[2].addresses[1], "10.0.0.0/8")
    is(seen[1].max, 1048576)
  end,
  ["a misspelt key of a call says what was meant"] = function()
    local net = net_of(good())
    local function says(part, f, ...)
      local ok, why = pcall(f, ...)
      assert(not ok and why:find(part, 1, true), tostring(why))
      assert(not why:find("lua/oauth.lua", 1, true), why)
    end
    says("did you mean headers?", net.request, { url = URL, header = {} }, 9000)
    says("did you mean expect?", net.post, URL, { expct = {} }, 9000)
    says("did you mean basic?", net.token, URL, { basik = {} }, 9000)
    says("did you mean key_id?", net.token, URL, { client = { method = "none", id = "i", keyid = "k" } }, 9000)
  end,
  ["headers are pairs or a map"] = function()
    local net, seen = net_of({ status = 200, values = {} })
    net.request({ url = URL, headers = { { "b", "2" }, { "a", "1" } } }, 9000)
    net.request({ url = URL, headers = { b = "2", a = "1" } }, 9000)
    local function text(list)
      local out = {}
      for i, h in ipairs(list) do out[i] = h[1] .. "=" .. h[2] end
      return table.concat(out, " ")
    end
    is(text(seen[1].headers), "b=2 a=1")
    is(text(seen[2].headers), "a=1 b=2")
    assert(not pcall(net.request, { url = URL, headers = { "a: 1" } }, 9000))
  end,
  ["what the endpoint wrote is kept out of what is told of a failure"] = function()
    local seen = { status = 400, texts = { "tenant 4711 of bob", "bob" } }
    is(oauth.without_answers("no: tenant 4711 of bob, bob", seen), "no: [answer], [answer]")
    is(oauth.without_answers("nothing of it", seen), "nothing of it")
    local net, noted = oauth.net {
      client = { request = function() return { status = 403, values = { why = "leaked text", error = "invalid_grant", n = 40013 } } end },
      time = { now = function() return 0 end, wall = function() return 0 end }, allows = function() return true end,
    }
    net.request({ url = URL, expect = { why = "string", error = "string", n = "number" } }, 9000)
    is(noted.status, 403)
    is(oauth.without_answers("invalid_grant 40013: leaked text", noted), "invalid_grant [answer]: [answer]")
  end,
}

return cases
