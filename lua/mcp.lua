--- An MCP server's authorization, from its URL to a client that may ask a person for consent.
-- RFC 9728 (protected resource metadata), RFC 8414 and OpenID Connect Discovery 1.0 (the authorization server),
-- RFC 7591 (registration), RFC 8707 (resource), as MCP's revisions from 2025-03-26 to 2026-07-28 want them. For commands.
--
--   mcp.discover(env, url)            -> found = { url, sse, resource, issuer, meta, scopes, prm }
--   mcp.register(env, found, spec)    -> client = { id, secret, method, how }
--   mcp.fields(found, client, redirect) -> the plain fields of an oauth_authorization_code credential
-- env = { client = http_client, time, http, json, addresses = of the server's own host, auth_addresses = of its
-- authorization server's }; discover sets env.loopback and env.host. Failures are nil, code, detail, who: M.sentence says them.
-- Addresses that remote metadata names are https (http on this machine's own names alone) and dialled through the
-- address guard, as everything that http_client sends.
local challenge = require "challenge"
local M = {}

local CALL_MAX = 15000               -- ms a document
local DOCUMENT_MAX = 256 * 1024      -- bytes: metadata is a few KiB
local SERVERS_MAX = 10               -- authorization servers that one document may name
local SCOPES_MAX, TEXT_MAX = 100, 2000
local PROTOCOL = "2025-11-25"        -- what the probe says it speaks; a server that refuses it is asked without

-- %s is whom it is said of.
local say = {
  not_url = "it is not an https URL (http is for this machine alone)",
  timeout = "%s did not answer in time",
  unreachable = "%s cannot be reached",
  cut = "%s broke off its answer",
  tls = "TLS with %s failed",
  address_blocked = "the address of %s is not public (%s would allow it)",
  clock_unset = "this machine's clock is not set, so no certificate can be judged",
  too_large = "%s gives an answer that is too large",
  unavailable = "%s is out of order",
  refused = "%s refuses what a client begins with",
  open = "it answers without any sign-in",
  redirect = "%s redirects: name the address where it ends",
  no_challenge = "it refuses, but says nothing of OAuth (no protected resource metadata, no authorization server)",
  prm_malformed = "its protected resource metadata is not what RFC 9728 asks for",
  prm_other = "its protected resource metadata is about another server",
  as_absent = "%s publishes no metadata",
  as_malformed = "the metadata of %s is not what RFC 8414 asks for",
  as_issuer = "the metadata of %s names another issuer (RFC 8414 3.3)",
  no_pkce = "%s does not offer PKCE with S256",
  no_code = "%s does not offer the authorization code grant",
  no_client = "%s registers nobody by itself",
  registration_refused = "%s refused to register a client",
  auth_method = "%s wants the client to authenticate in a way that is not known here",
}

--- A failure as a sentence. who = { what = "its authorization server", at = address }, of which discover and register
-- give the one that was asked; nil: the server itself.
function M.sentence(code, detail, who)
  local name = who and (who.at and ("%s, %s,"):format(who.what, who.at) or who.what) or "it"
  local text = say[code] or "%s answers with " .. tostring(code):gsub("%%", "%%%%")
  text = text:format(name, who and who.foreign and "--auth-address CIDR" or "--address CIDR"):gsub("the address of it ", "its address ")
  return detail and detail ~= "" and ("%s: %s"):format(text, detail) or text
end

-- ---- fetching ------------------------------------------------------------------------------------

local LOOPBACK = { "127.0.0.0/8", "::1/128" }

--- Is a name this machine's own, whatever a resolver says (RFC 8252 8.3)?
function M.own_name(host)
  return host == "localhost" or host == "::1" or host:find("^127%.%d+%.%d+%.%d+$") ~= nil
end

--- The private ranges in which a host may be: those named for the MCP server are its own host's alone, for its metadata
-- may name any other. server = { host, own = is it this machine's, addresses, auth_addresses }
function M.addresses(server, host)
  if server.own and M.own_name(host) then return LOOPBACK end
  if host == server.host then return server.addresses end
  return server.auth_addresses
end

local function addresses_of(env, url)
  return M.addresses({ host = env.host, own = env.loopback, addresses = env.addresses, auth_addresses = env.auth_addresses }, url.host)
end

--- https, or http to a name that is this machine's own (RFC 8252 8.3): the parsed URL, whether it is | nil. Only a
-- server of this machine may lead to this machine (env.loopback): another's metadata must not reach what listens here.
function M.url(env, text)
  if type(text) ~= "string" or #text > TEXT_MAX or text:find("#", 1, true) then return nil end
  local url = env.http.parse_url(text)
  if not url then return nil end
  local own = M.own_name(url.host)
  if own and not env.loopback or url.scheme ~= "https" and not own then return nil end
  -- Nor to a name of the network that the upstream proxy stands in, unless the operator named it.
  if require("route").through { host = url.host, port = url.port, tls = true, exact = not env.host or url.host == env.host,
    addresses = addresses_of(env, url) } == nil then return nil end
  return url, own
end

local function origin_of(url)
  local host = url.host:find(":", 1, true) and "[" .. url.host .. "]" or url.host
  local usual = url.scheme == "https" and 443 or 80
  return ("%s://%s%s"):format(url.scheme, host, url.port ~= usual and ":" .. url.port or "")
end

-- A document of JSON: table | nil, "absent" (4xx: look elsewhere), "unavailable", "malformed", … (stop)
local function document(env, text)
  local url = M.url(env, text)
  if not url then return nil, "not_url" end
  local answer, code, detail = env.client.request({
    method = "GET", url = text, text = true, max = DOCUMENT_MAX,
    headers = { { "accept", "application/json" }, { "mcp-protocol-version", PROTOCOL } },
    addresses = addresses_of(env, url),
  }, env.time.now() + CALL_MAX)
  if not answer then return nil, code, detail end
  if answer.status >= 400 and answer.status < 500 then return nil, "absent" end
  if answer.status ~= 200 then return nil, answer.status >= 500 and "unavailable" or "redirect" end
  local doc = env.json.decode(answer.text or "")
  if type(doc) ~= "table" then return nil, "malformed" end
  return doc
end

-- A list of short texts, or nil.
local function texts(value, max)
  if type(value) ~= "table" then return nil end
  local out = {}
  for i, v in ipairs(value) do
    if i > max or type(v) ~= "string" or v == "" or #v > TEXT_MAX or v:find("[%c]") then return nil end
    out[i] = v
  end
  return #out > 0 and out or nil
end

-- ---- the server's own word -----------------------------------------------------------------------

local INITIALIZE = '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"' .. PROTOCOL
  .. '","capabilities":{},"clientInfo":{"name":"sallyport","version":"1"}}}'
local NEXT = { '{"jsonrpc":"2.0","method":"notifications/initialized"}', '{"jsonrpc":"2.0","id":2,"method":"tools/list"}' }

-- body: of a POST. session: the one that `initialize` was given. old: without the revision, as before 2025-06-18.
local function ask(env, url, method, body, session, old)
  local headers = { { "accept", body and "application/json, text/event-stream" or "text/event-stream" } }
  if body then headers[#headers + 1] = { "content-type", "application/json" } end
  if not old then headers[#headers + 1] = { "mcp-protocol-version", PROTOCOL } end
  if session then headers[#headers + 1] = { "mcp-session-id", session } end
  local answer, code, detail = env.client.request({
    method = method, url = url, head = true, body = body, headers = headers, addresses = addresses_of(env, env.http.parse_url(url)),
  }, env.time.now() + CALL_MAX)
  if answer and answer.status == 400 and body and not old then return ask(env, url, method, body, session, true) end
  return answer, code, detail
end

-- What a 401 says.
local function asks(answer, sse)
  local bearer = challenge.bearer(answer.challenge)
  return { challenge = bearer or {}, sse = sse, other = answer.challenge ~= nil and not bearer }
end

-- Who may begin without a sign-in is asked for one at the next call, at the latest at a call of a tool.
local function goes_on(env, url, session)
  for _, body in ipairs(NEXT) do
    local answer = ask(env, url, "POST", body, session)
    if answer and answer.status == 401 then return asks(answer) end
  end
  if session then ask(env, url, "DELETE", nil, session) end       -- it was for this question alone
end

-- { challenge, sse, other = it asks for something else than a bearer token, failed = code, where only its metadata can
-- tell, detail } | nil, code, detail. A server that knows no POST is one of HTTP with SSE (2024-11-05); one that asks who
-- is there before it looks at the method can only be told by its usual path, /sse.
local function probe(env, url)
  local answer, code, detail = ask(env, url, "POST", INITIALIZE)
  local sse = answer and (answer.status == 404 or answer.status == 405 or answer.status == 400)
  if sse then answer, code, detail = ask(env, url, "GET") end
  if not answer then return nil, code, detail end
  if answer.status == 401 then return asks(answer, sse) end
  if answer.status >= 300 and answer.status < 400 then return nil, "redirect" end
  if answer.status >= 500 then return nil, "unavailable", ("it answers %d"):format(answer.status) end
  if answer.status < 300 then
    local session = answer.session and answer.session:find("^[\33-\126]+$") and answer.session or nil
    return not sse and goes_on(env, url, session) or { challenge = {}, sse = sse, failed = "open" }
  end
  return { challenge = {}, failed = "refused", detail = ("it answers %d"):format(answer.status) }
end

-- ---- protected resource metadata (RFC 9728) ------------------------------------------------------

-- Whom a failure is said of.
local function whose(env, what, at)
  local url = env.http.parse_url(at)
  return { what = what, at = at, foreign = url and url.host ~= env.host }
end

-- Is `resource` this server? RFC 9728 3.3 wants equality; servers that name a part above the path are met with, and
-- the token is for that part. Another origin is another server.
local function about(env, resource, url)
  local r = M.url(env, resource)
  if not r or r.scheme ~= url.scheme or r.host ~= url.host or r.port ~= url.port then return false end
  local prefix = r.path:gsub("/$", "")
  return url.path == r.path or url.path:sub(1, #prefix + 1) == prefix .. "/" or url.path == prefix
end

-- What is named must be there; where it is only guessed, what is no JSON is another page.
local function resource_metadata(env, url, named)
  local places, doc, code, detail = { named }, nil, nil, nil
  if not named then
    local well_known = origin_of(url) .. "/.well-known/oauth-protected-resource"
    places = { well_known .. (url.path ~= "/" and url.path or ""), url.path ~= "/" and well_known or nil }
  end
  for _, place in ipairs(places) do
    doc, code, detail = document(env, place)
    if doc then break end
    if code == "malformed" and named then return nil, "prm_malformed" end
    if code ~= "absent" and code ~= "malformed" then return nil, code, detail, whose(env, "the place of its metadata", place) end
  end
  if not doc then return nil, "absent" end
  local servers = texts(doc.authorization_servers, SERVERS_MAX)
  if type(doc.resource) ~= "string" or not servers then return nil, "prm_malformed" end
  if not about(env, doc.resource, url) then return nil, "prm_other" end
  return { resource = doc.resource, servers = servers, scopes = texts(doc.scopes_supported, SCOPES_MAX) }
end

-- ---- the authorization server (RFC 8414, OpenID Connect Discovery) -------------------------------

--- Where an issuer's metadata may be, in order. Of an issuer with a path never the root document.
function M.metadata_places(env, issuer)
  local url = M.url(env, issuer)
  if not url or url.query then return nil end
  local origin, path = origin_of(url), url.path:gsub("/$", "")
  if path == "" then
    return { origin .. "/.well-known/oauth-authorization-server", origin .. "/.well-known/openid-configuration" }
  end
  return {
    origin .. "/.well-known/oauth-authorization-server" .. path,
    origin .. "/.well-known/openid-configuration" .. path,
    origin .. path .. "/.well-known/openid-configuration",
  }
end

local function listed(list, word)
  for _, v in ipairs(type(list) == "table" and list or {}) do
    if v == word then return true end
  end
  return false
end

-- What is wrong with a document, or nil. `root`: it was looked for at the root of a server that names no issuer
-- (2025-03-26), so it may name any of that origin.
local function judge(env, doc, issuer, root)
  local named = root and M.url(env, doc.issuer)
  if doc.issuer ~= issuer and not (named and not named.query and origin_of(named) == issuer) then return "as_issuer" end
  for _, name in ipairs { "authorization_endpoint", "token_endpoint" } do
    if not M.url(env, doc[name]) then return "as_malformed" end
  end
  for _, name in ipairs { "registration_endpoint", "revocation_endpoint", "device_authorization_endpoint" } do
    if doc[name] ~= nil and not M.url(env, doc[name]) then return "as_malformed" end
  end
  if doc.response_types_supported and not listed(doc.response_types_supported, "code") then return "no_code" end
  if not listed(doc.code_challenge_methods_supported, "S256") then return "no_pkce" end
end

local function server_metadata(env, issuer, root)
  local places = M.metadata_places(env, issuer)
  if not places then return nil, "as_malformed" end
  for _, place in ipairs(places) do
    local doc, code, detail = document(env, place)
    if doc then
      local wrong = judge(env, doc, issuer, root)
      if wrong then return nil, wrong end
      return doc
    end
    if code == "malformed" then return nil, "as_malformed", "no JSON" end
    if code ~= "absent" then return nil, code, detail end
  end
  return nil, "as_absent"
end

-- ---- all of it -----------------------------------------------------------------------------------

-- The scopes to ask for: the challenge's word, else all that the resource lists, else none.
local function scopes_of(hint, prm, meta)
  local list = {}
  for word in (hint.scope or ""):gmatch("[^%c%s\"\\\127-\255]+") do
    if #list < SCOPES_MAX then list[#list + 1] = word end
  end
  if #list == 0 then list = prm.scopes or {} end
  -- Only where the server lists it: others refuse a scope that they do not know.
  if #list > 0 and listed(meta.scopes_supported, "offline_access") and not listed(list, "offline_access") then
    list[#list + 1] = "offline_access"
  end
  return list
end

-- 2025-03-26: a server without any metadata is its own authorization server, at these paths. PKCE is a must there, too.
local function default_metadata(origin)
  return { issuer = origin, authorization_endpoint = origin .. "/authorize", token_endpoint = origin .. "/token",
    registration_endpoint = origin .. "/register", token_endpoint_auth_methods_supported = { "none" } }
end

--- Everything about a server that a client must know. found.guessed: it publishes nothing, and its endpoints are those that
-- MCP's revision 2025-03-26 gives it.
function M.discover(env, text)
  env.loopback = true                        -- the operator's own word
  local url, own = M.url(env, text)
  if not url then return nil, "not_url" end
  env.loopback, env.host = own, url.host
  local hint, code, detail, who = probe(env, text)
  if not hint then return nil, code, detail end
  local named, prm, meta = hint.challenge.resource_metadata, nil, nil
  prm, code, detail, who = resource_metadata(env, url, named)
  if not prm and hint.failed then return nil, hint.failed, hint.detail end
  local issuer = prm and prm.servers[1]
  if not prm then
    if code ~= "absent" or named then return nil, code == "absent" and "prm_malformed" or code, detail, who end
    issuer, prm = origin_of(url), {}         -- 2025-03-26: the server is its own authorization server
  end
  meta, code, detail = server_metadata(env, issuer, not prm.resource)
  if meta then issuer = meta.issuer end
  if not meta and not prm.resource and (code == "as_absent" or code == "as_malformed" and detail == "no JSON") then
    if hint.other then return nil, "no_challenge" end
    meta, prm.guessed = default_metadata(issuer), true
  end
  if not meta then return nil, code, code ~= "as_malformed" and detail or nil, whose(env, "its authorization server", issuer) end
  return {
    url = text, target = url, own = own, sse = hint.sse or url.path:find("/sse/?$") ~= nil, resource = prm.resource, issuer = issuer, meta = meta,
    scopes = scopes_of(hint.challenge, prm, meta), guessed = prm.guessed,
  }
end

-- ---- a client (RFC 7591) -------------------------------------------------------------------------

-- RFC 8414 2: an absent list means client_secret_basic. A public client is asked for where there is a choice: there
-- is nobody whom a secret on this machine would prove anything to.
local function method_of(meta, has_secret)
  local list = meta.token_endpoint_auth_methods_supported
  if type(list) ~= "table" then list = { "client_secret_basic" } end
  local order = has_secret and { "client_secret_basic", "client_secret_post" }
    or { "none", "client_secret_basic", "client_secret_post" }
  for _, method in ipairs(order) do
    if listed(list, method) then return method end
  end
end

local short = { none = "none", client_secret_basic = "basic", client_secret_post = "post" }

local function dynamic(env, found, redirect)
  local method, who = method_of(found.meta), whose(env, "its authorization server", found.issuer)
  if not method then return nil, "auth_method", nil, who end
  local url = M.url(env, found.meta.registration_endpoint)
  local answer, code, detail = env.client.request({
    method = "POST", url = found.meta.registration_endpoint, max = DOCUMENT_MAX,
    headers = { { "content-type", "application/json" }, { "accept", "application/json" } },
    body = env.json.encode {
      client_name = "Sallyport", redirect_uris = { redirect }, grant_types = { "authorization_code", "refresh_token" },
      response_types = { "code" }, token_endpoint_auth_method = method, application_type = "native",
      scope = #found.scopes > 0 and table.concat(found.scopes, " ") or nil,
    },
    expect = { client_id = "text", client_secret = "secret", token_endpoint_auth_method = "string", error = "string" },
    addresses = addresses_of(env, url),
  }, env.time.now() + CALL_MAX)
  if not answer then return nil, code, detail, who end
  local v = answer.values or {}
  -- Where its place was guessed, only a client or a word of RFC 7591 shows that there is one.
  if found.guessed and not v.client_id and not v.error then return nil, "no_challenge" end
  if answer.status ~= 201 and answer.status ~= 200 then
    local known = { invalid_redirect_uri = true, invalid_client_metadata = true, invalid_software_statement = true,
      unapproved_software_statement = true }   -- RFC 7591 3.2.2
    return nil, "registration_refused", known[v.error] and v.error or ("it answers %d"):format(answer.status), who
  end
  if not v.client_id or v.client_id == "" then return nil, "registration_refused", "it names no client_id", who end
  if #v.client_id > TEXT_MAX or v.client_id:find("[^\32-\126]") or v.client_id:find("^[{[]") then        -- RFC 6749 A.1
    return nil, "registration_refused", "its client_id has bytes that no client_id has", who
  end
  -- RFC 7591 3.2.1 has it name the method; one that names none and yet gives a secret wants to see it.
  local given = short[v.token_endpoint_auth_method or found.guessed and v.client_secret ~= nil and "client_secret_post" or method]
  if not given or given ~= "none" and v.client_secret == nil then return nil, "auth_method", nil, who end
  return { id = v.client_id, secret = given ~= "none" and v.client_secret or nil, method = given, how = "registered" }
end

--- A client at the found server: one that the operator has, one that a metadata document describes, or a new one.
-- spec = { redirect, client_id, has_secret, client_metadata_url }
function M.register(env, found, spec)
  if spec.client_id then
    local method = spec.has_secret and (found.guessed and "client_secret_post" or method_of(found.meta, true)) or "none"
    if not method then return nil, "auth_method", nil, whose(env, "its authorization server", found.issuer) end
    return { id = spec.client_id, method = short[method] or "none", how = "given" }
  end
  if spec.client_metadata_url and found.meta.client_id_metadata_document_supported == true then
    return { id = spec.client_metadata_url, method = "none", how = "metadata" }
  end
  if found.meta.registration_endpoint then return dynamic(env, found, spec.redirect) end
  return nil, "no_client", nil, whose(env, "its authorization server", found.issuer)
end

--- The fields of a credential that is this client.
function M.fields(found, client, redirect)
  local meta = found.meta
  return {
    authorization_url = meta.authorization_endpoint, token_url = meta.token_endpoint,
    revocation_url = meta.revocation_endpoint, device_authorization_url = meta.device_authorization_endpoint,
    issuer = found.issuer, require_iss = meta.authorization_response_iss_parameter_supported == true or nil,
    client_id = client.id, auth_method = client.method, scopes = found.scopes,
    resource = found.resource and { found.resource } or nil, redirect_uri = redirect,
  }
end

return M
