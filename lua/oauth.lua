--- OAuth 2.0 token requests (RFC 6749), and the `net` that a policy's `refresh` gets.
-- oauth.net(with) -> { token, request }: bound to one credential, so that its secrets reach only the URLs its own
-- fields name or its type declares. A policy never sees a body: it gets the members it asked for.
--
--   net.token(url, { client = {…} | basic = {id, secret}, form = { {name, value}, … }, body = "form"|"json",
--                    headers = { {n, v} }, ttl = seconds, lasting = bool, token_types = {"bearer"},
--                    member = "access_token", within = "authed_user", or_top = bool }, deadline)
--     within: a dotted member in which the tokens stand; or_top: or, where it has none, at the top
--     -> { secrets = { access_token, refresh_token }, expires_at = Unix s, granted = { scope, … } or nil,
--          plain = { [member] = text, number or boolean } or nil: those that the type's `plain` names }
--        | nil, code, detail
--   net.post(url, { client =, basic =, form =, body =, headers =, expect = }, deadline) -> answer | nil, code, detail
--   client = { method = "none"|"basic"|"post"|"private_key_jwt", id =, secret =, key =, key_id =, algorithm =,
--              audience = } : who asks (RFC 6749 2.3.1, RFC 7523 2.2)
--   net.request({ method, url, headers, body, expect }, deadline) -> { status, values } | nil, code, detail
local M = {}

local TTL_MAX = 30 * 86400    -- DESIGN: over 30 days is 30 days
local LASTING = 10 * 366 * 86400  -- s: a token without an end that nobody can renew
local ASSERTION_LIFE = 120    -- s: RFC 7523 3 asks for short ones; two minutes forgive a slow clock
local TTL_DEFAULT = 300       -- where neither the server nor the type says: short, so that an error heals soon
local CALL_MAX = 10000        -- ms for one call; its caller's deadline may be nearer
local SLACK = 500             -- ms that a program's end may take to be told
local ARGUMENTS_MAX = 64      -- of a helper program, with its name
local BODY_MAX = 1 << 20      -- a token answer of more than 1 MiB is none
local TOKEN_EXPECT = {
  access_token = "secret", refresh_token = "secret", token_type = "string", expires_in = "number", error = "code",
  scope = "string",
}
local SCOPES_MAX, SCOPE_MAX = 100, 200   -- scopes kept of one text, bytes of one: a server writes them

-- Error codes that a token, device, revocation or registration endpoint may answer (IANA, "OAuth Extensions Error"). Of a
-- server's text these alone are repeated: any other could be anything.
local registered = {
  invalid_request = true, invalid_client = true, invalid_grant = true, unauthorized_client = true,
  unsupported_grant_type = true, invalid_scope = true,                            -- RFC 6749 5.2
  access_denied = true, unsupported_response_type = true, server_error = true,
  temporarily_unavailable = true,                                                 -- RFC 6749 4.1.2.1
  invalid_token = true, insufficient_scope = true,                                -- RFC 6750 3.1
  unsupported_token_type = true,                                                  -- RFC 7009 2.2.1
  invalid_redirect_uri = true, invalid_client_metadata = true, invalid_software_statement = true,
  unapproved_software_statement = true,                                           -- RFC 7591 3.2.2
  authorization_pending = true, slow_down = true, expired_token = true,           -- RFC 8628 3.5
  invalid_target = true,                                                          -- RFC 8707 2
  invalid_authorization_details = true,                                           -- RFC 9396 5
  invalid_dpop_proof = true, use_dpop_nonce = true,                               -- RFC 9449 5, 8
  insufficient_user_authentication = true,                                        -- RFC 9470 3
  interaction_required = true, login_required = true, consent_required = true,
  account_selection_required = true,                                              -- OpenID Connect 3.1.2.6
}
-- What large providers say in place of the registered code: GitHub, then Slack.
local registered_for = {
  bad_refresh_token = "invalid_grant", bad_verification_code = "invalid_grant", incorrect_client_credentials = "invalid_client",
  invalid_refresh_token = "invalid_grant", token_expired = "invalid_grant", token_revoked = "invalid_grant",
  invalid_code = "invalid_grant", code_already_used = "invalid_grant", bad_client_secret = "invalid_client",
  invalid_client_id = "invalid_client",
}

local function copy(t)
  local out = {}
  for k, v in pairs(t) do out[k] = v end
  return out
end

--- The code as it may be shown: the registered one, else "unregistered_error".
function M.code(text)
  return registered[text] and text or registered_for[text] or "unregistered_error"
end

--- The scopes that a server's text names: a list, only of what may be a scope (RFC 6749 3.3). GitHub and Slack put commas
-- between them. nil: no text.
function M.scopes(text, max)
  if type(text) ~= "string" then return nil end
  local list = {}
  for word in text:gmatch("[^%s,]+") do
    if #list < (max or SCOPES_MAX) and #word <= SCOPE_MAX and not word:find('[^\33-\126]') and not word:find('["\\]') then
      list[#list + 1] = word
    end
  end
  return list
end

-- Google and Microsoft write one scope in two ways: as a URL, and as its end. In capitals or not.
local function same_scope(a, b)
  a, b = a:lower(), b:lower()
  local long, short = #a > #b and a or b, #a > #b and b or a
  return a == b or long:find("://", 1, true) ~= nil and long:sub(-#short) == short and long:sub(-#short - 1, -#short - 1):find("[/.]") ~= nil
end

--- The scopes of one list that another does not have. renews: a refresh token came, for which offline_access asks.
function M.missing(list, from, renews)
  local out = {}
  for _, scope in ipairs(list or {}) do
    local found = renews and scope == "offline_access"
      or scope:find("/.default", 1, true) ~= nil                -- Microsoft's word for all that the client may have
    for _, other in ipairs(from) do found = found or same_scope(scope, other) end
    if not found then out[#out + 1] = scope end
  end
  return out
end

--- A lifetime in whole seconds. Unreadable, infinite or not positive counts as absent: `default` then.
function M.lifetime(value, default, max)
  local n = type(value) == "string" and value:find("^%d+%.?%d*$") and tonumber(value) or value
  if type(n) ~= "number" or n ~= n or n < 1 then
    n = type(default) == "number" and default >= 1 and default or TTL_DEFAULT
  end
  return math.floor(math.min(n, max or TTL_MAX))
end

--- RFC 6749 2.3.1: both halves are form-encoded first, then joined and put in Base64.
function M.basic(secret, id, password)
  return "Basic " .. secret.base64(secret.form(id) .. ":" .. secret.form(password or ""))
end

-- A list is one value with spaces between (a scope, RFC 6749 3.3); an absent or empty value leaves the parameter out.
local function value_of(v)
  if type(v) ~= "table" then return v ~= "" and v or nil end
  local parts = {}
  for _, part in ipairs(v) do parts[#parts + 1] = part end
  return #parts > 0 and table.concat(parts, " ") or nil
end

-- RFC 7523 2.2: the client signs who it is, for one request.
local function assertion(with, client, url)
  local now = with.time.wall()
  return with.sign.jwt {
    alg = client.algorithm or "RS256", key = client.key, header = { typ = "JWT", kid = client.key_id },
    claims = { iss = client.id, sub = client.id, aud = client.audience or url, jti = with.new_id(), iat = now,
               exp = now + ASSERTION_LIFE },
  }
end

--- Adds to a request who asks. -> the form with what goes into it, the Authorization value or nil | nil, nil, code
local function authenticate(with, url, spec)
  local form, client = {}, spec.client
  table.move(spec.form or {}, 1, #(spec.form or {}), 1, form)
  if not client then return form, spec.basic and M.basic(with.secret, spec.basic[1], spec.basic[2]) end
  if client.method == "basic" then return form, M.basic(with.secret, client.id, client.secret) end
  form[#form + 1] = { "client_id", client.id }
  if client.method == "post" then
    form[#form + 1] = { "client_secret", client.secret }
  elseif client.method == "private_key_jwt" then
    form[#form + 1] = { "client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" }
    local jwt, why = assertion(with, client, url)
    if not jwt then return nil, nil, why end
    form[#form + 1] = { "client_assertion", jwt }
  end
  return form
end

local function token_body(with, spec, form)
  local pairs_, object = {}, {}
  for _, p in ipairs(form) do
    local name, value = p[1], value_of(p[2])
    if value ~= nil then
      pairs_[#pairs_ + 1] = { name, value }
      -- In JSON a repeated parameter is a list.
      local had = object[name]
      if had == nil then object[name] = value
      elseif type(had) == "table" then had[#had + 1] = value
      else object[name] = { had, value } end
    end
  end
  if spec.body == "json" then return with.json.build(object), "application/json" end
  return with.form.encode(pairs_), "application/x-www-form-urlencoded"
end

local function type_ok(given, allowed)
  if given == nil then return true end  -- RFC 6749 5.1 requires it; several providers leave it out
  for _, t in ipairs(allowed or { "bearer" }) do
    if type(given) == "string" and given:lower() == t:lower() then return true end
  end
  return false
end

-- The answer's members as they stand within another.
local function inner(v, spec)
  if not spec.within then return v end
  local prefix, out = spec.within .. ".", {}
  for name, value in pairs(v) do
    if name:sub(1, #prefix) == prefix then out[name:sub(#prefix + 1)] = value end
  end
  return spec.or_top and out[spec.member or "access_token"] == nil and v or out
end

--- Judges a token endpoint's answer by RFC 6749 5.1. sent_at: Unix s, when the request went out.
function M.judge(answer, spec, sent_at)
  local v = answer.values or {}
  local detail = { status = answer.status, retry_after = answer.retry_after }
  -- Some servers answer 200 with `error`, some 400 without: the member decides before the status.
  if v.error ~= nil then return nil, M.code(v.error), detail end
  if answer.status == 429 or answer.status >= 500 then return nil, "unavailable", detail end
  if answer.status < 200 or answer.status > 299 then
    return nil, answer.status >= 300 and answer.status < 400 and "redirect" or "refused", detail
  end
  if answer.malformed then return nil, "malformed", detail end
  local plain
  for _, name in ipairs(spec.plain or {}) do
    plain = plain or {}
    plain[name] = v[name]
  end
  v = inner(v, spec)
  if plain and plain.scope ~= nil then plain.scope = v.scope end
  local access_token = v[spec.member or "access_token"]
  if access_token == nil then return nil, "no_access_token", detail end
  if not type_ok(v.token_type, spec.token_types) then return nil, "token_type", detail end
  -- `lasting`: a token that nobody can renew is used as long as the server says, or until it is refused.
  local lasting = spec.lasting and v.refresh_token == nil and not spec.renewable
  return {
    secrets = { access_token = access_token, refresh_token = v.refresh_token },
    expires_at = sent_at + M.lifetime(v.expires_in, lasting and LASTING or spec.ttl, lasting and LASTING or nil),
    granted = M.scopes(v.scope), plain = plain,
  }
end

local WORD_MAX = 64      -- bytes of a reason that a policy may name

-- What each function of `net` may be told.
local request_keys = { method = true, url = true, headers = true, body = true, expect = true }
local post_keys = { client = true, basic = true, form = true, body = true, headers = true, expect = true }
local token_keys = {
  client = true, basic = true, form = true, body = true, headers = true, ttl = true, lasting = true, renewable = true,
  token_types = true, member = true, within = true, or_top = true,
}
local client_keys = { method = true, id = true, secret = true, key = true, key_id = true, algorithm = true, audience = true }
M.keys = { request = request_keys, post = post_keys, token = token_keys, client = client_keys }

local meant = function(...) return require("policy").meant(...) end
local client_methods = { none = true, basic = true, post = true, private_key_jwt = true }
local expect_kinds = { secret = true, string = true, number = true, boolean = true, code = true, type = true, text = true, plain = true }

local function check_form(what, form)
  local listed = type(form) == "table" and #form or 0
  for k, pair in pairs(type(form) == "table" and form or { form }) do
    if math.type(k) ~= "integer" or k < 1 or k > listed or type(pair) ~= "table" or type(pair[1]) ~= "string" then
      error(what .. ": form is a list of pairs { { name, value }, … }", 0)
    end
  end
end

-- A misspelt key must not be one that does nothing.
local function check_keys(what, given, keys)
  for k in pairs(given) do
    if not keys[k] then error(("%s has no key '%s'%s"):format(what, type(k) == "string" and k or type(k), meant(k, keys)), 0) end
  end
  if given.form ~= nil then check_form(what, given.form) end
  if given.basic ~= nil and type(given.basic) ~= "table" then error(what .. ": basic is { id, secret }", 0) end
  if given.expect == nil then return end
  if type(given.expect) ~= "table" then error(what .. ": expect is a table: { member = kind }", 0) end
  for member, kind in pairs(given.expect) do
    if type(member) ~= "string" then error(what .. ": expect is { member = kind }", 0) end
    if not expect_kinds[kind] then
      error(("%s: expect.%s is of the unknown kind '%s'%s"):format(what, member, tostring(kind), meant(kind, expect_kinds)), 0)
    end
  end
end

-- { { name, value } … }, or { name = value }, as a list of pairs.
local function header_list(headers)
  if headers == nil then return {} end
  if type(headers) ~= "table" then error("headers is a table: { name = value }, or a list of pairs { name, value }", 0) end
  local list, names = {}, {}
  for i, h in ipairs(headers) do
    if type(h) ~= "table" then error(("header %d is not a pair { name, value }"):format(i), 0) end
    list[i] = h
  end
  for name in pairs(headers) do names[#names + 1] = type(name) == "string" and name or nil end
  table.sort(names)
  for _, name in ipairs(names) do list[#list + 1] = { name, headers[name] } end
  return list
end

-- Notes what the endpoint said, so that it can be kept out of what is told of a failure. Registered codes may be told.
local function note_answer(seen, answer)
  local function add(text)
    if type(text) == "number" then text = ("%.14g"):format(text) end
    if type(text) == "string" and #text > 2 and M.code(text) ~= text then seen.texts[#seen.texts + 1] = text end
  end
  seen.status = answer.status
  add(answer.challenge)
  for _, v in pairs(answer.values or {}) do add(v) end
end

-- A word that stands in the policy's own text tells nothing: its author knows what the endpoint may say.
local function known_word(part, source)
  return #part <= WORD_MAX and part:find("^[%w_.-]+$") and source:find("%f[%w_]" .. part:gsub("%W", "%%%0") .. "%f[^%w_]") ~= nil
end

--- A policy's own words about a refresh, without what the endpoint wrote. seen: what M.net noted; source: the policy's text,
-- whose words are shown; nil: none is.
function M.without_answers(text, seen, source)
  local texts = seen and seen.texts or {}
  table.sort(texts, function(a, b) return #a > #b end)
  for _, part in ipairs(texts) do
    local at = source and known_word(part, source) and #text + 1 or 1
    while at <= #text do
      local s, e = text:find(part, at, true)
      if not s then break end
      text, at = text:sub(1, s - 1) .. "[answer]" .. text:sub(e + 1), s + #"[answer]"
    end
  end
  return text
end

--- with = { client = http_client, time, secret, form, json, sign, new_id, allows = function(url) -> true | nil, why,
--           addresses = function(url) -> {cidr} | nil, tls = function(url) -> identity | nil, deadline = of the whole refresh,
--           plain = members of a token endpoint's answer that are kept beside the token,
--           answered = function(name, what it answered, its arguments) | nil }
-- -> net, seen = { status = of the last answer | nil, texts = { what the endpoints wrote } }
function M.net(with)
  local net, seen = {}, { texts = {} }

  local function call(spec, deadline)
    seen.status = nil
    local ok, why = with.allows(spec.url)
    if not ok then return nil, "url_not_declared", why end
    local limit = math.min(with.time.now() + CALL_MAX, with.deadline or math.huge)
    if type(deadline) == "number" and deadline < limit then limit = deadline end
    if limit <= with.time.now() then return nil, "timeout" end
    local answer, code, detail = with.client.request({
      method = spec.method or "POST", url = spec.url, headers = header_list(spec.headers), body = spec.body, expect = spec.expect,
      exact = true, max = BODY_MAX, addresses = with.addresses and with.addresses(spec.url), tls = with.tls and with.tls(spec.url),
    }, limit)
    if answer then note_answer(seen, answer) end
    local values = answer and answer.values or {}
    for name, kind in pairs(spec.expect or {}) do
      if kind == "code" and values[name] ~= nil then values[name] = M.code(values[name]) end
      -- as an endpoint gave it, and nothing that a policy built: a key in Base64 may be decoded
      if kind == "secret" and require("secret").is(values[name]) then require("secret.core").as_field(values[name]) end
    end
    return answer, code, detail
  end

  function net.request(spec, deadline)
    assert(type(spec) == "table" and type(spec.url) == "string", "net.request: url is missing")
    check_keys("net.request", spec, request_keys)
    if spec.body ~= nil and type(spec.body) ~= "string" and not with.secret.is(spec.body) then
      error("net.request: body is a string or a secret (json.build and form make one)", 0)
    end
    return call(spec, deadline)
  end

  function net.post(url, spec, deadline)
    assert(type(url) == "string" and type(spec) == "table", "net.post: url or parameters are missing")
    check_keys("net.post", spec, post_keys)
    if spec.client then
      check_keys("client", spec.client, client_keys)
      local method = spec.client.method
      if not client_methods[method] then
        error(("client.method is '%s'%s"):format(tostring(method), meant(method, client_methods)), 0)
      end
    end
    if spec.body ~= nil and spec.body ~= "json" and spec.body ~= "form" then
      error("net.post: body is \"form\" or \"json\": what is sent stands in form", 0)
    end
    local form, basic, why = authenticate(with, url, spec)
    if not form then return nil, "bad_key", why end
    local body, content_type = token_body(with, spec, form)
    local headers = { { "accept", "application/json" }, { "content-type", content_type } }
    if basic then headers[#headers + 1] = { "authorization", basic } end
    for _, h in ipairs(header_list(spec.headers)) do headers[#headers + 1] = h end
    return call({ url = url, headers = headers, body = body, expect = spec.expect }, deadline)
  end

  local post = net.post
  function net.token(url, spec, deadline)
    assert(type(url) == "string" and type(spec) == "table", "net.token: url or parameters are missing")
    check_keys("net.token", spec, token_keys)
    -- Counted from before the request: a slow answer must not lengthen the token's life.
    local sent_at = with.time.wall()
    local expect = { [spec.member or "access_token"] = "secret" }
    for k, v in pairs(TOKEN_EXPECT) do expect[k] = expect[k] or v end
    for k, v in pairs(spec.within and copy(expect) or {}) do expect[spec.within .. "." .. k] = v end
    for _, name in ipairs(with.plain or {}) do
      if expect[name] ~= "secret" then expect[name] = "plain" end
    end
    local answer, code, detail = post(url, {
      client = spec.client, basic = spec.basic, form = spec.form, body = spec.body, headers = spec.headers,
      expect = expect,
    }, deadline)
    if not answer then return nil, code, detail end
    spec = copy(spec)
    spec.plain = with.plain
    return M.judge(answer, spec, sent_at)
  end

  --- What a helper program prints: { { name, secret } … } | nil, code. spec = { program, arguments = {…}, timeout = ms }
  function net.command(spec, deadline)
    assert(with.command, "net.command: a type that runs programs says so: programs = true")
    assert(type(spec) == "table" and type(spec.program) == "string", "net.command: program is missing")
    assert(#(spec.arguments or {}) < ARGUMENTS_MAX, "net.command: too many arguments")
    local now = with.time.now()
    local limit = math.min(with.deadline or math.huge, type(deadline) == "number" and deadline or math.huge, now + spec.timeout + SLACK)
    if limit <= now then return nil, "command_timeout" end
    return with.command({ spec.program, timeout = spec.timeout, table.unpack(spec.arguments or {}) }, limit)
  end

  -- What is wrong with an argument is the policy's: the message begins with its line.
  for name, f in pairs(net) do
    net[name] = function(...)
      local out = table.pack(pcall(f, ...))
      if out[1] and out[2] and with.answered then with.answered(name, out[2], ...) end
      if out[1] then return table.unpack(out, 2, out.n) end
      error(type(out[2]) == "string" and out[2]:gsub("^lua/[%w_]+%.lua:%d+: ", "") or out[2], 2)
    end
  end
  return net, seen
end

return M
